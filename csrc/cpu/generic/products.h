// Sums of products of small dense fp32 matrices, for the calibration of weights (csrc/calibrate). Every element of c is
// one chain of fused multiply-adds over ascending t, whatever the tile and the instruction set.
#pragma once

#include "cpu/generic/vec.h"
#include "cpu/kernels.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

// c[i ..][j ..] of kRows rows and kVecs * 16 columns.
template <int kRows, int kVecs>
LLAMA4RT_INLINE void add_products_tile(const Products& p, int64_t i, int64_t j) {
  Vec sum[kRows][kVecs];
  float* const c = p.c + i * p.c_stride + j;
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVecs; ++v) sum[r][v] = Vec::load(c + r * p.c_stride + v * kLanes);
  const float* a = p.a + i;
  const float* b = p.b + j;
  for (int64_t t = 0; t < p.count; ++t, a += p.a_stride, b += p.b_stride) {
    Vec right[kVecs];
    for (int v = 0; v < kVecs; ++v) right[v] = Vec::load(b + v * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const Vec left = Vec::set1(a[r]);
      for (int v = 0; v < kVecs; ++v) sum[r][v] = fma(left, right[v], sum[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVecs; ++v) sum[r][v].store(c + r * p.c_stride + v * kLanes);
}

template <int kVecs>
inline void add_products_columns(const Products& p, int64_t j) {
  int64_t i = 0;
  for (; i + kValueRows <= p.rows; i += kValueRows) add_products_tile<kValueRows, kVecs>(p, i, j);
  for (; i < p.rows; ++i) add_products_tile<1, kVecs>(p, i, j);
}

inline void add_products(const Products& p) {
  int64_t j = 0;
  for (; j + kValueVecs * kLanes <= p.columns; j += kValueVecs * kLanes)
    add_products_columns<kValueVecs>(p, j);
  for (; j < p.columns; j += kLanes) add_products_columns<1>(p, j);
}

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
