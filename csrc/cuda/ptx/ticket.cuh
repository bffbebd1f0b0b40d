// The atomic at which blocks of one launch meet.
// PTX ISA: atom.add with .acq_rel.
#pragma once

#include "cuda/simt.h"

#ifdef LLAMA4RT_SIMT_EMULATOR
#include "simt_emulator/checker.h"
#include "simt_emulator/faults.h"
#include "simt_emulator/ordered_atomic.h"
#endif

namespace llama4rt::cuda::ptx {

// *p += value for global memory at device scope; gives the old value. What this thread has done and seen before is
// visible to a thread that reads the result with this function, from there on: no fence_device on either side. Other
// threads of the blocks take part through a barrier before and one behind.
LLAMA4RT_DEVICE uint32_t atomic_add_ordered(uint32_t* p, uint32_t value LLAMA4RT_AND_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::InRuntime guard;
  // Either half is a place of its own to break.
  const bool releases = !simt::fault_at(simt::FaultKind::kFence, site, 1);
  const bool acquires = !simt::fault_at(simt::FaultKind::kFence, site, 2);
  simt::checker::access(p, 4, simt::checker::Kind::kAtomic, {nullptr, site});
  simt::checker::ordered_atomic(p, releases, acquires);
  const uint32_t before = *p;
  *p = before + value;
  return before;
#else
  uint32_t out;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;" : "=r"(out) : "l"(p), "r"(value) : "memory");
  return out;
#endif
}

}  // namespace llama4rt::cuda::ptx
