// Arithmetic that C++ has no word for: approximations and pairs of bf16 in one register (low half first).
// PTX ISA: rsqrt.approx, ex2.approx, cvt.f32.f16, cvt.rn.bf16x2.f32, fma.rn.bf16x2, lop3.
#pragma once

#include "cuda/simt.h"

#ifdef LLAMA4RT_SIMT_EMULATOR
#include <bit>
#include <cmath>

#include "base/dtype.h"
#endif

namespace llama4rt::cuda::ptx {

// 1 / sqrt(x); the hardware's relative error is at most 2^-22.9.
LLAMA4RT_DEVICE float rsqrt(float x) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  return 1.0f / std::sqrt(x);
#else
  float out;
  asm("rsqrt.approx.f32 %0, %1;" : "=f"(out) : "f"(x));
  return out;
#endif
}

// 2^x; the hardware's relative error is at most 2^-22.5.
LLAMA4RT_DEVICE float exp2(float x) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  return std::exp2(x);
#else
  float out;
  asm("ex2.approx.f32 %0, %1;" : "=f"(out) : "f"(x));
  return out;
#endif
}

// x * y + z, rounded once: C++ may or may not fuse, an order of additions that we promise may not depend on
// it.
LLAMA4RT_DEVICE float fma(float x, float y, float z) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  return std::fma(x, y, z);
#else
  float out;
  asm("fma.rn.f32 %0, %1, %2, %3;" : "=f"(out) : "f"(x), "f"(y), "f"(z));
  return out;
#endif
}

LLAMA4RT_DEVICE float float_from_bits(uint32_t bits) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  return std::bit_cast<float>(bits);
#else
  return __uint_as_float(bits);
#endif
}

// Exact.
LLAMA4RT_DEVICE float float_from_half(uint16_t bits) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  return to_float(fp16{bits});
#else
  float out;
  asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(bits));
  return out;
#endif
}

// {bf16(low), bf16(high)}, to nearest even.
LLAMA4RT_DEVICE uint32_t pack_bf16(float low, float high) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::InRuntime guard;
  return uint32_t(to_bf16(low).bits) | uint32_t(to_bf16(high).bits) << 16;
#else
  uint32_t out;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
#endif
}

// Both halves: a * b + c, rounded once to bf16.
LLAMA4RT_DEVICE uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::InRuntime guard;
  const auto half = [&](int shift) {
    const auto value = [shift](uint32_t pair) { return double(to_float(bf16{uint16_t(pair >> shift)})); };
    // Exact in double but for sums 2^37 apart, far beyond what one rounding to bf16 can show.
    return uint32_t(to_bf16(float(value(a) * value(b) + value(c))).bits) << shift;
  };
  return half(0) | half(16);
#else
  uint32_t out;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
  return out;
#endif
}

// (a & b) | c in one instruction: truth table 0xea.
LLAMA4RT_DEVICE uint32_t and_or(uint32_t a, uint32_t b, uint32_t c) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  return (a & b) | c;
#else
  uint32_t out;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
  return out;
#endif
}

}  // namespace llama4rt::cuda::ptx
