// Dot products of VNNI on zmm registers.
#pragma once

#include "cpu/x86/int_vec_avx512.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

inline IVec dot_pairs(IVec sum, IVec w, const int16_t* x) {
  return {_mm512_dpwssd_epi32(sum.v, w.v, _mm512_set1_epi32(load_i32(x)))};
}
inline IVec dot_bytes(IVec sum, IVec a, IVec b) { return {_mm512_dpbusd_epi32(sum.v, a.v, b.v)}; }
inline constexpr bool kBytePairs = false;

// The dot instruction has a latency of five cycles and accumulates by itself.
constexpr int int_chains(int tokens) { return tokens <= 2 ? 8 / tokens : tokens <= 4 ? 4 : 2; }
constexpr int byte_chains(int tokens) { return tokens <= 2 ? 2 : 1; }

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
