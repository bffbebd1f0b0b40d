// Element-wise kernels of one row.
#pragma once

#include "cpu/generic/math.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

inline void widen_row(float* out, const bf16* table, int64_t dim) {
  int64_t i = 0;
  for (; i + kLanes <= dim; i += kLanes) Vec::load(table + i).store(out + i);
  for (; i < dim; ++i) out[i] = to_float(table[i]);
}

inline void gelu_row(float* x, const float* bias, int64_t dim) {
  for (int64_t i = 0; i < dim; i += kLanes) {
    const int n = dim - i < kLanes ? int(dim - i) : kLanes;
    const auto load = [n](const float* p) { return n == kLanes ? Vec::load(p) : Vec::load_partial(p, n); };
    const Vec y = gelu(bias ? load(x + i) + load(bias + i) : load(x + i));
    n == kLanes ? y.store(x + i) : y.store_partial(x + i, n);
  }
}

inline void add_rows(float* x, const float* y, int64_t stride, int64_t count, int64_t dim) {
  for (int64_t i = 0; i < dim; i += kLanes) {
    const int n = dim - i < kLanes ? int(dim - i) : kLanes;
    const auto load = [n](const float* p) { return n == kLanes ? Vec::load(p) : Vec::load_partial(p, n); };
    Vec sum = load(y + i);
    for (int64_t j = 1; j < count; ++j) sum = sum + load(y + j * stride + i);
    sum = load(x + i) + sum;
    n == kLanes ? sum.store(x + i) : sum.store_partial(x + i, n);
  }
}

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
