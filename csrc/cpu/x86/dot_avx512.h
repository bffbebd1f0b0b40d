// Dot products of AVX-512 without VNNI.
#pragma once

#include "cpu/x86/int_vec_avx512.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

inline IVec dot_pairs(IVec sum, IVec w, const int16_t* x) {
  return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(w.v, _mm512_set1_epi32(load_i32(x))))};
}
inline IVec dot_bytes(IVec sum, IVec a, IVec b) {
  const __m512i pairs = _mm512_maddubs_epi16(a.v, b.v);
  return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))};
}
inline constexpr bool kBytePairs = true;  // pairs of products are int16 first

// The chain of a sum is a single add.
constexpr int int_chains(int) { return 2; }
constexpr int byte_chains(int) { return 1; }

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
