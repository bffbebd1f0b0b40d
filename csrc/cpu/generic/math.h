// exp and what is made of it: our own polynomials, so that every table has the same bits.
#pragma once

#include "cpu/generic/int_vec.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

// e^x within 1e-7 relative for x in [-87, 88]; smaller x gives e^-87 (1.6e-38), larger e^88. NaN stays NaN.
inline Vec exp(Vec x) {
  // max and min return their second argument when one is NaN.
  x = min(Vec::set1(88.0f), max(Vec::set1(-87.0f), x));
  // x = n ln 2 + r, |r| <= ln 2 / 2. Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
  const Vec magic = Vec::set1(0x1.8p23f);
  const Vec shifted = fma(x, Vec::set1(0x1.715476p0f), magic);
  const Vec n = shifted - magic;
  Vec r = fma(n, Vec::set1(-0x1.62e400p-1f), x);  // ln 2 in two parts; n times the first is exact
  r = fma(n, Vec::set1(-0x1.7f7d1cp-20f), r);
  // e^r = 1 + r + r^2 p(r): p interpolates at the Chebyshev points of the interval, error 8e-10.
  Vec p = fma(r, Vec::set1(0x1.a1256cp-13f), Vec::set1(0x1.6d43b0p-10f));
  p = fma(r, p, Vec::set1(0x1.1110e0p-7f));
  p = fma(r, p, Vec::set1(0x1.5554e8p-5f));
  p = fma(r, p, Vec::set1(0x1.555556p-3f));
  p = fma(r, p, Vec::set1(0.5f));
  p = fma(r * r, p, r) + Vec::set1(1.0f);
  const Vec power = from_bits(shift_left<23>(bits(shifted)) + IVec::set1(0x3f800000));  // 2^n
  return p * power;
}

inline Vec sigmoid(Vec x) { return Vec::set1(1.0f) / (Vec::set1(1.0f) + exp(Vec::zero() - x)); }
inline Vec silu(Vec x) { return x / (Vec::set1(1.0f) + exp(Vec::zero() - x)); }

// y Phi(y), Phi the normal distribution: within 1.3e-7 |y| of the exact value, and within 4e-7 of it relative
// for y > -3, as nothing cancels: y Phi(y) = max(y, 0) - |y| Phi(-|y|).
// Phi(-a) = e^(-a^2 / 2) r(a); r falls smoothly from 1/2 like 1 / a, so it is a polynomial of u = (a - 3) /
// (a + 3), interpolated at the Chebyshev points of 0 <= a <= 14, error 3e-8. From a = 12.5 on, where the
// product is 5e-35, it stays as it is: no denormal numbers, and infinity times zero never happens.
inline Vec gelu(Vec y) {
  // max and min return their second argument when one is NaN.
  const Vec a = min(Vec::set1(12.5f), max(y, Vec::zero() - y));
  const Vec u = (a - Vec::set1(3.0f)) / (a + Vec::set1(3.0f));
  Vec r = fma(u, Vec::set1(0x1.c5c5aep-15f), Vec::set1(0x1.e76950p-14f));
  r = fma(u, r, Vec::set1(-0x1.640cfep-12f));
  r = fma(u, r, Vec::set1(-0x1.0205acp-10f));
  r = fma(u, r, Vec::set1(0x1.7cb072p-9f));
  r = fma(u, r, Vec::set1(0x1.91e11ep-8f));
  r = fma(u, r, Vec::set1(-0x1.7a9434p-5f));
  r = fma(u, r, Vec::set1(0x1.f8baccp-4f));
  r = fma(u, r, Vec::set1(-0x1.a6b66ap-3f));
  r = fma(u, r, Vec::set1(0x1.f1b89cp-4f));
  const Vec tail = r * exp(a * a * Vec::set1(-0.5f));
  return fma(Vec::zero() - a, tail, max(Vec::zero(), y));
}

inline float sigmoid_one(float x) {
  alignas(64) float lanes[kLanes];
  sigmoid(Vec::set1(x)).store(lanes);
  return lanes[0];
}

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
