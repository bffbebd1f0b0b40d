// Exchange of registers between the lanes of a warp. All 32 lanes take part.
// PTX ISA: shfl.sync, vote.sync.ballot, match.any.sync.
#pragma once

#include "cuda/simt.h"

#ifdef LLAMA4RT_SIMT_EMULATOR
#include <bit>

#include "simt_emulator/warp.h"
#endif

namespace llama4rt::cuda::ptx {

// The value of lane `source`.
LLAMA4RT_DEVICE uint32_t shuffle(uint32_t value, int source LLAMA4RT_AND_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  return simt::shuffle(value, source, 32, site);
#else
  uint32_t out;
  asm volatile("shfl.sync.idx.b32 %0, %1, %2, 31, 0xffffffff;" : "=r"(out) : "r"(value), "r"(source));
  return out;
#endif
}

// The value of lane (own lane xor lane_mask).
LLAMA4RT_DEVICE float shuffle_xor(float value, int lane_mask LLAMA4RT_AND_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  return std::bit_cast<float>(simt::shuffle_xor(std::bit_cast<uint32_t>(value), lane_mask, 32, site));
#else
  float out;
  asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 31, 0xffffffff;" : "=f"(out) : "f"(value), "r"(lane_mask));
  return out;
#endif
}

// The value of the lane `delta` above; own value where there is none.
LLAMA4RT_DEVICE float shuffle_down(float value, int delta LLAMA4RT_AND_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  return std::bit_cast<float>(simt::shuffle_down(std::bit_cast<uint32_t>(value), delta, 32, site));
#else
  float out;
  asm volatile("shfl.sync.down.b32 %0, %1, %2, 31, 0xffffffff;" : "=f"(out) : "f"(value), "r"(delta));
  return out;
#endif
}

// The value of the lane `delta` below; own value where there is none.
LLAMA4RT_DEVICE float shuffle_up(float value, int delta LLAMA4RT_AND_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  return std::bit_cast<float>(simt::shuffle_up(std::bit_cast<uint32_t>(value), delta, 32, site));
#else
  float out;
  asm volatile("shfl.sync.up.b32 %0, %1, %2, 0, 0xffffffff;" : "=f"(out) : "f"(value), "r"(delta));
  return out;
#endif
}

// Bit i is lane i's predicate.
LLAMA4RT_DEVICE uint32_t ballot(bool predicate LLAMA4RT_AND_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  return simt::ballot(0xffffffffu, predicate, site);
#else
  uint32_t out;
  asm volatile("{ .reg .pred p; setp.ne.u32 p, %1, 0; vote.sync.ballot.b32 %0, p, 0xffffffff; }"
               : "=r"(out)
               : "r"(uint32_t(predicate)));
  return out;
#endif
}

// The lanes that hold the same value.
LLAMA4RT_DEVICE uint32_t match_any(uint32_t value LLAMA4RT_AND_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  return simt::match_any(0xffffffffu, value, site);
#else
  uint32_t out;
  asm volatile("match.any.sync.b32 %0, %1, 0xffffffff;" : "=r"(out) : "r"(value));
  return out;
#endif
}

}  // namespace llama4rt::cuda::ptx
