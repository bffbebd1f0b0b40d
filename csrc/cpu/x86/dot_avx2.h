// Dot products of AVX2.
#pragma once

#include "cpu/x86/int_vec_avx2.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

inline IVec dot_pairs(IVec sum, IVec w, const int16_t* x) {
  const __m256i pair = _mm256_set1_epi32(load_i32(x));
  return {_mm256_add_epi32(sum.lo, _mm256_madd_epi16(w.lo, pair)),
          _mm256_add_epi32(sum.hi, _mm256_madd_epi16(w.hi, pair))};
}
inline IVec dot_bytes(IVec sum, IVec a, IVec b) {
  const __m256i ones = _mm256_set1_epi16(1);
  return {_mm256_add_epi32(sum.lo, _mm256_madd_epi16(_mm256_maddubs_epi16(a.lo, b.lo), ones)),
          _mm256_add_epi32(sum.hi, _mm256_madd_epi16(_mm256_maddubs_epi16(a.hi, b.hi), ones))};
}
inline constexpr bool kBytePairs = true;  // pairs of products are int16 first

// The chain of a sum is a single add.
constexpr int int_chains(int) { return 2; }
constexpr int byte_chains(int) { return 1; }

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
