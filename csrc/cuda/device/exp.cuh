// e^x and what is made of it, from operations that round the same everywhere: results on a GPU have the bits
// of the emulator. The same polynomials as cpu/generic/math.h, where their errors are derived.
#pragma once

#include "cuda/ptx/math.cuh"
#include "cuda/ptx/rounded.cuh"
#include "cuda/simt.h"

namespace llama4rt::cuda {

// e^x within 1e-7 relative for x in [-87, 88]; smaller x gives e^-87 (1.6e-38), larger e^88. NaN stays NaN.
LLAMA4RT_DEVICE float exp_exact(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  // x = n ln 2 + r, |r| <= ln 2 / 2. Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
  constexpr float kMagic = 0x1.8p23f;
  const float shifted = ptx::fma(x, 0x1.715476p0f, kMagic);
  const float n = shifted - kMagic;
  float r = ptx::fma(n, -0x1.62e400p-1f, x);
  r = ptx::fma(n, -0x1.7f7d1cp-20f, r);
  float p = ptx::fma(r, 0x1.a1256cp-13f, 0x1.6d43b0p-10f);
  p = ptx::fma(r, p, 0x1.1110e0p-7f);
  p = ptx::fma(r, p, 0x1.5554e8p-5f);
  p = ptx::fma(r, p, 0x1.555556p-3f);
  p = ptx::fma(r, p, 0.5f);
  p = ptx::add(ptx::fma(ptx::mul(r, r), p, r), 1.0f);
  return p * ptx::float_from_bits((ptx::bits_from_float(shifted) << 23) + 0x3f800000u);  // times 2^n
}

LLAMA4RT_DEVICE float sigmoid(float x) { return 1.0f / (1.0f + exp_exact(-x)); }

// y (1 + erf(y / sqrt 2)) / 2, within 1.3e-7 |y| of the exact value, and within 4e-7 of it relative for y >
// -3: max(y, 0) - |y| e^(-y^2 / 2) r(|y|), where nothing cancels.
LLAMA4RT_DEVICE float gelu_exact(float y) {
  float a = y < 0.0f ? -y : y;
  a = a > 12.5f ? 12.5f : a;
  const float u = (a - 3.0f) / (a + 3.0f);
  float r = ptx::fma(u, 0x1.c5c5aep-15f, 0x1.e76950p-14f);
  r = ptx::fma(u, r, -0x1.640cfep-12f);
  r = ptx::fma(u, r, -0x1.0205acp-10f);
  r = ptx::fma(u, r, 0x1.7cb072p-9f);
  r = ptx::fma(u, r, 0x1.91e11ep-8f);
  r = ptx::fma(u, r, -0x1.7a9434p-5f);
  r = ptx::fma(u, r, 0x1.f8baccp-4f);
  r = ptx::fma(u, r, -0x1.a6b66ap-3f);
  r = ptx::fma(u, r, 0x1.f1b89cp-4f);
  const float tail = ptx::mul(r, exp_exact(ptx::mul(ptx::mul(a, a), -0.5f)));
  return ptx::fma(-a, tail, y > 0.0f ? y : 0.0f);
}

}  // namespace llama4rt::cuda
