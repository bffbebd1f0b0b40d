// Dot products of VNNI on zmm registers.
#pragma once

#include "cpu/x86/int_vec_avx512.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

// Assembly, because GCC 12 makes a copy of nearly every sum that its own functions add to (_mm512_dpbusd_epi32 and the
// like): as many moves as products in the inner loops.
inline IVec dot_pairs(IVec sum, IVec w, const int16_t* x) {
  __asm__("vpdpwssd %2, %1, %0" : "+v"(sum.v) : "v"(w.v), "v"(_mm512_set1_epi32(load_i32(x))));
  return sum;
}
inline IVec dot_bytes(IVec sum, IVec a, IVec b) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum.v) : "v"(a.v), "v"(b.v));
  return sum;
}
inline constexpr bool kBytePairs = false;

// The dot instruction has a latency of five cycles and accumulates by itself.
constexpr int int_chains(int tokens) { return tokens <= 2 ? 8 / tokens : tokens <= 4 ? 4 : 2; }
constexpr int byte_chains(int tokens) { return tokens <= 2 ? 2 : 1; }

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
