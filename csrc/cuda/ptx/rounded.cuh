// Single operations, each rounded once: where results must be the bits that plain C++ gives on the host, nvcc
// may not fuse a product into a sum. Also the bits of a float.
// PTX ISA: mul.rn.f32, add.rn.f32.
#pragma once

#include "cuda/simt.h"

#ifdef LLAMA4RT_SIMT_EMULATOR
#include <bit>
#endif

namespace llama4rt::cuda::ptx {

LLAMA4RT_DEVICE float mul(float x, float y) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  return x * y;
#else
  float out;
  asm("mul.rn.f32 %0, %1, %2;" : "=f"(out) : "f"(x), "f"(y));
  return out;
#endif
}

LLAMA4RT_DEVICE float add(float x, float y) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  return x + y;
#else
  float out;
  asm("add.rn.f32 %0, %1, %2;" : "=f"(out) : "f"(x), "f"(y));
  return out;
#endif
}

LLAMA4RT_DEVICE uint32_t bits_from_float(float x) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  return std::bit_cast<uint32_t>(x);
#else
  return __float_as_uint(x);
#endif
}

}  // namespace llama4rt::cuda::ptx
