// Dot products of VNNI on ymm registers, in the encoding of processors without AVX-512.
#pragma once

#include "cpu/x86/int_vec_avx2.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

inline IVec dot_pairs(IVec sum, IVec w, const int16_t* x) {
  const __m256i pair = _mm256_set1_epi32(load_i32(x));
  return {_mm256_dpwssd_avx_epi32(sum.lo, w.lo, pair), _mm256_dpwssd_avx_epi32(sum.hi, w.hi, pair)};
}
inline IVec dot_bytes(IVec sum, IVec a, IVec b) {
  return {_mm256_dpbusd_avx_epi32(sum.lo, a.lo, b.lo), _mm256_dpbusd_avx_epi32(sum.hi, a.hi, b.hi)};
}
inline constexpr bool kBytePairs = false;

// The dot instruction has a latency of five cycles and accumulates by itself; a sum takes two of sixteen
// registers.
constexpr int int_chains(int tokens) { return tokens == 1 ? 4 : 2; }
constexpr int byte_chains(int tokens) { return tokens <= 2 ? 2 : 1; }

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
