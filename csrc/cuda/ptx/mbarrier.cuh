// mbarrier: a barrier in shared memory that counts arrivals and bytes of bulk copies, phase after phase.
// A wait names the parity of the phase it waits for: 0 first, then 1, 0, ...
// PTX ISA: mbarrier.init, .arrive, .arrive.expect_tx, .try_wait.parity, fence.mbarrier_init.  sm_90.
#pragma once

#include "cuda/simt.h"

#ifdef LLAMA4RT_SIMT_EMULATOR
#include "simt_emulator/async.h"
#endif

namespace llama4rt::cuda::ptx {

// 8 bytes, 8-byte aligned. One thread initialises; the others need a barrier before they use it.
LLAMA4RT_DEVICE void mbarrier_init(uint32_t mbarrier, int arrivals LLAMA4RT_AND_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::mbarrier_init(mbarrier, arrivals, site);
#else
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(mbarrier), "r"(arrivals) : "memory");
#endif
}

// Makes initialised mbarriers visible to bulk copies. After the inits, before the barrier of the block.
LLAMA4RT_DEVICE void fence_mbarrier_init() {
#if !defined(LLAMA4RT_SIMT_EMULATOR) && __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

LLAMA4RT_DEVICE void mbarrier_arrive(uint32_t mbarrier LLAMA4RT_AND_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::mbarrier_arrive(mbarrier, site);
#else
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(mbarrier) : "memory");
#endif
}

// Arrives; the phase then ends only after `bytes` of copies as well.
LLAMA4RT_DEVICE void mbarrier_arrive_expect(uint32_t mbarrier, int bytes LLAMA4RT_AND_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::mbarrier_expect_tx(mbarrier, bytes, site);
  simt::mbarrier_arrive(mbarrier, site);
#elif __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(mbarrier), "r"(bytes)
               : "memory");
#else
  __trap();
#endif
}

// Waits for the end of the phase of this parity.
LLAMA4RT_DEVICE void mbarrier_wait(uint32_t mbarrier, uint32_t parity LLAMA4RT_AND_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::mbarrier_wait(mbarrier, parity, site);
#elif __CUDA_ARCH__ >= 900
  // try_wait suspends the thread for a while by itself; the loop is for when that time ends first.
  asm volatile(
      "{ .reg .pred done;\n"
      "retry%=: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra retry%=; }" ::"r"(mbarrier),
      "r"(parity)
      : "memory");
#else
  __trap();
#endif
}

}  // namespace llama4rt::cuda::ptx
