// LayerNorm of one row, over Vec.
#pragma once

#include "cpu/generic/row_sum.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

// The mean comes first and deviations from it are squared: no cancellation where the mean is large.
// out[i] = (x[i] - mean) / sqrt(mean((x - mean)^2) + eps) * weight[i] + bias[i], i < dim.  out may be x.
inline void layernorm_row(float* out, const float* x, const float* weight, const float* bias, int64_t dim,
                          float eps) {
  const float mean =
      row_sum(x, dim, 0.0f, [](Vec sum, Vec v) LLAMA4RT_INLINE_LAMBDA { return sum + v; }) / float(dim);
  const Vec shift = Vec::set1(mean);
  const float variance = row_sum(x, dim, mean,
                                 [shift](Vec sum, Vec v) LLAMA4RT_INLINE_LAMBDA {
                                   const Vec d = v - shift;
                                   return fma(d, d, sum);
                                 }) /
                         float(dim);
  const Vec scale = Vec::set1(1.0f / std::sqrt(variance + eps));
  for (int64_t i = 0; i < dim; i += kLanes) {
    const int n = dim - i < kLanes ? int(dim - i) : kLanes;
    const auto load = [n](const float* p) { return n == kLanes ? Vec::load(p) : Vec::load_partial(p, n); };
    const Vec y = fma((load(x + i) - shift) * scale, load(weight + i), load(bias + i));
    n == kLanes ? y.store(out + i) : y.store_partial(out + i, n);
  }
}

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
