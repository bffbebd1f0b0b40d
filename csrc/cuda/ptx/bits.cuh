// Counting bits, and moving bytes.
// PTX ISA: popc.b32, prmt.b32.
#pragma once

#include "cuda/simt.h"

#ifdef LLAMA4RT_SIMT_EMULATOR
#include <bit>
#endif

namespace llama4rt::cuda::ptx {

LLAMA4RT_DEVICE int popcount(uint32_t x) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  return std::popcount(x);
#else
  int out;
  asm("popc.b32 %0, %1;" : "=r"(out) : "r"(x));
  return out;
#endif
}

// Byte i of the result is byte (order >> 4 i) % 8 of {low, high}; no nibble of the low half of `order` is above 7, and
// its high half is not looked at.
LLAMA4RT_DEVICE uint32_t pick_bytes(uint32_t low, uint32_t high, uint32_t order) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  const uint64_t bytes = uint64_t(high) << 32 | low;
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) out |= uint32_t(bytes >> (order >> 4 * i & 7) * 8 & 0xff) << 8 * i;
  return out;
#else
  uint32_t out;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(out) : "r"(low), "r"(high), "r"(order));
  return out;
#endif
}

}  // namespace llama4rt::cuda::ptx
