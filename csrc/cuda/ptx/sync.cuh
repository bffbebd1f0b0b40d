// Barriers and fences.
// PTX ISA: bar.sync, bar.arrive, bar.warp.sync, fence.acq_rel.gpu.
#pragma once

#include "cuda/simt.h"

#ifdef LLAMA4RT_SIMT_EMULATOR
#include "simt_emulator/barrier.h"
#include "simt_emulator/checker.h"
#include "simt_emulator/faults.h"
#include "simt_emulator/warp.h"
#endif

namespace llama4rt::cuda::ptx {

// All threads of the block that have not exited; orders their shared and global accesses.
LLAMA4RT_DEVICE void sync_threads(LLAMA4RT_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::sync_block(site);
#else
  asm volatile("bar.sync 0;" ::: "memory");
#endif
}

// A barrier, number 1..15, of `threads` threads of the block, a multiple of 32.
LLAMA4RT_DEVICE void sync_named(int barrier, int threads LLAMA4RT_AND_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::sync_named(barrier, threads, site);
#else
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
#endif
}

// Counts at barrier 1..15 without waiting.
LLAMA4RT_DEVICE void arrive_named(int barrier, int threads LLAMA4RT_AND_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::arrive_named(barrier, threads, site);
#else
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
#endif
}

// The lanes of `mask`; orders their accesses. Shuffles and votes order nothing.
LLAMA4RT_DEVICE void sync_warp(uint32_t mask LLAMA4RT_AND_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::sync_warp(mask, site);
#else
  asm volatile("bar.warp.sync %0;" ::"r"(mask) : "memory");
#endif
}

// Stores of this thread before it (and those it has seen) are visible to a thread that later reads an atomic
// which this thread writes after it: __threadfence().
LLAMA4RT_DEVICE void fence_device(LLAMA4RT_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::InRuntime guard;
  if (!simt::fault_at(simt::FaultKind::kFence, site)) simt::checker::fence();
#else
  asm volatile("fence.acq_rel.gpu;" ::: "memory");
#endif
}

}  // namespace llama4rt::cuda::ptx
