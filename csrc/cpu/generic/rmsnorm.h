// RMSNorm of one row, over Vec: the smallest kernel, and the pattern of the others.
#pragma once

#include "cpu/generic/row_sum.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

// 1 / sqrt(mean(x^2) + eps).
inline float inverse_rms(const float* x, int64_t dim, float eps) {
  const float square =
      row_sum(x, dim, 0.0f, [](Vec sum, Vec v) LLAMA4RT_INLINE_LAMBDA { return fma(v, v, sum); });
  return 1.0f / std::sqrt(square / float(dim) + eps);
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
