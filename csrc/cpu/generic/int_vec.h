// Functions of IVec that every vector type gets. The templates are for vector types that have no function of
// that name themselves: one that is not a template is preferred.
#pragma once

#include <concepts>

#include "cpu/generic/vec.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

template <std::same_as<IVec> I>
inline int32_t reduce_add(I a) {
  alignas(64) uint32_t x[16];
  a.store(x);
  uint32_t sum = 0;
  for (uint32_t lane : x) sum += lane;
  return int32_t(sum);
}
template <std::same_as<IVec> I>
inline int32_t reduce_max(I a) {
  alignas(64) int32_t x[16];
  a.store(x);
  int32_t best = x[0];
  for (int32_t lane : x) best = lane > best ? lane : best;
  return best;
}

// The two bf16 of each 32-bit word: low half and high half, as fp32.
inline Vec low_bf16(IVec words) { return from_bits(shift_left<16>(words)); }
inline Vec high_bf16(IVec words) { return from_bits(words & IVec::set1(int32_t(0xffff0000u))); }

// The two e4m3 codes of each lane, one in each half of 16 bits, as fp32. Exact, but the two NaN codes read as
// 480. Sign, exponent and mantissa move into the places of bf16, where the exponent's bias is 120 too small.
template <std::same_as<IVec> I>
inline void widen_f8_pairs(Vec& low, Vec& high, I codes) {
  const IVec sign = shift_left<8>(codes) & IVec::set1(int32_t(0x80008000u));
  const IVec magnitude = shift_left<4>(codes) & IVec::set1(0x07f007f0);
  const Vec bias = Vec::set1(0x1p120f);
  low = low_bf16(magnitude + sign) * bias;
  high = high_bf16(magnitude + sign) * bias;
}

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
