// RMSNorm of one row, over Vec: the smallest kernel, and the pattern of the others.
#pragma once

#include "cpu/generic/vec.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

// 1 / sqrt(mean(x^2) + eps).
// The sum runs in four lane vectors (i mod 64) so that the fma chain does not wait for its own latency.
inline float inverse_rms(const float* x, int64_t dim, float eps) {
  Vec sum[4] = {Vec::zero(), Vec::zero(), Vec::zero(), Vec::zero()};
  int64_t i = 0;
  for (; i + 64 <= dim; i += 64)
    for (int j = 0; j < 4; ++j) {
      const Vec v = Vec::load(x + i + 16 * j);
      sum[j] = fma(v, v, sum[j]);
    }
  for (int j = 0; i < dim; i += 16, ++j) {
    const Vec v = i + 16 <= dim ? Vec::load(x + i) : Vec::load_partial(x + i, int(dim - i));
    sum[j] = fma(v, v, sum[j]);
  }
  const float mean = reduce_add((sum[0] + sum[1]) + (sum[2] + sum[3])) / float(dim);
  return 1.0f / std::sqrt(mean + eps);
}

// out[i] = x[i] * rsqrt(mean(x^2) + eps) * weight[i], i < dim.  out may be x.
inline void rmsnorm_row(float* out, const float* x, const float* weight, int64_t dim, float eps) {
  const Vec scale = Vec::set1(inverse_rms(x, dim, eps));
  int64_t i = 0;
  for (; i + 16 <= dim; i += 16) (Vec::load(x + i) * scale * Vec::load(weight + i)).store(out + i);
  if (const int rest = int(dim - i); rest > 0)
    (Vec::load_partial(x + i, rest) * scale * Vec::load_partial(weight + i, rest))
        .store_partial(out + i, rest);
}

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
