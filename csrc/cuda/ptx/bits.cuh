// Counting bits.
// PTX ISA: popc.b32.
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

}  // namespace llama4rt::cuda::ptx
