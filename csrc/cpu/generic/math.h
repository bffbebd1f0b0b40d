// exp and what is made of it: our own polynomial, so that every table has the same bits.
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

inline float sigmoid_one(float x) {
  alignas(64) float lanes[kLanes];
  sigmoid(Vec::set1(x)).store(lanes);
  return lanes[0];
}

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
