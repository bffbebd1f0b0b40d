// cp.async: 16 bytes from global to shared memory past the registers, in groups.
// PTX ISA: cp.async.cg, cp.async.commit_group, cp.async.wait_group.
#pragma once

#include "cuda/simt.h"

#ifdef LLAMA4RT_SIMT_EMULATOR
#include "simt_emulator/async.h"
#endif

namespace llama4rt::cuda::ptx {

// 16 bytes, both sides 16-byte aligned; only the first src_bytes are read, the rest becomes zero. Goes past
// the first cache: for data used once.
LLAMA4RT_DEVICE void copy_async_16(uint32_t dst, const void* src, int src_bytes LLAMA4RT_AND_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::copy_async(dst, src, 16, src_bytes, site);
#else
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(dst), "l"(src), "r"(src_bytes)
               : "memory");
#endif
}

// The copies this thread issued since the last commit become a group, which may be empty.
LLAMA4RT_DEVICE void copy_commit() {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::copy_commit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most kLeft groups of this thread are in flight. For other threads' copies a barrier is
// needed, too.
template <int kLeft>
LLAMA4RT_DEVICE void copy_wait(LLAMA4RT_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::copy_wait(kLeft, site);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
#endif
}

}  // namespace llama4rt::cuda::ptx
