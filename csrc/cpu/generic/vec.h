// Vec and IVec: sixteen lanes of fp32 or int32, whatever the instruction set. The inner loops in cpu/generic
// are written once over them.
//
// Every table has the same sixteen virtual lanes (one zmm, two ymm, or an array), multiplies and adds only
// through fma() where the source says fma, and reduces by the same tree: so all tables give the same bits,
// and the scalar table is the oracle of the others. Nothing may use an approximate instruction (rcp, rsqrt):
// those differ between vendors. Integer arithmetic wraps (two's complement).
//
// A table is a .cpp of its own (cpu/scalar/scalar.cpp is the shortest). It names its namespace (LLAMA4RT_ISA)
// and the header with its vector types (LLAMA4RT_ISA_HEADER), and includes cpu/generic/table.h. That header
// supplies:
//   Vec, IVec     with all functions that the scalar ones have; these define their meaning
//   kTokenTile, kValueRows, kValueVecs, kBytePairs, int_chains, byte_chains     how much the registers hold
//   kFmaChains, kInt8Chains, forget_value                                       to measure the machine with
// It may have a faster reduce_add, reduce_max or widen_f8_pairs of IVec than the templates of int_vec.h.
//
// To add a table for Arm: cpu/arm/ with a Vec, an IVec, their table's .cpp, isa_flags.cmake and tables.cpp
// (which says when each table runs, as in cpu/x86/), and its line in cmake/cpu_isa.cmake. Nothing else
// changes.
#pragma once

#include "cpu/generic/lanes.h"

#include LLAMA4RT_ISA_HEADER

namespace llama4rt::cpu::LLAMA4RT_ISA {

// Sum of the lanes by one fixed tree: halves, quarters, pairs.
inline float reduce_add(Vec a) {
  alignas(64) float x[16];
  a.store(x);
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) x[i] += x[i + width];
  return x[0];
}
inline float reduce_max(Vec a) {
  alignas(64) float x[16];
  a.store(x);
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) x[i] = x[i] > x[i + width] ? x[i] : x[i + width];
  return x[0];
}

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
