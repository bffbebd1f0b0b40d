// The rotation that keys, values and queries pass in front of caches of few bits: a Hadamard matrix over the square root
// of its size, so that one large number of a head becomes many small ones, which share a scale better. It is its own
// inverse and leaves dot products as they are. Heads whose size is no power of two are rotated in blocks of the largest
// power of two that divides it.
#pragma once

#include <cmath>
#include <cstdint>

#include "ops/kv_formats.h"

namespace llama4rt {

// x: [dim], in place. Sums and differences in fixed order and one product at the end: the same bits wherever it is
// compiled.
inline void rotate_head(float* x, int64_t dim) {
  const int64_t size = dim & -dim;
  const float factor = 1.0f / std::sqrt(float(size));
  for (int64_t half = 1; half < size; half *= 2)
    for (int64_t i = 0; i < dim; i += 2 * half)
      for (int64_t j = i; j < i + half; ++j) {
        const float a = x[j], b = x[j + half];
        x[j] = a + b;
        x[j + half] = a - b;
      }
  for (int64_t i = 0; i < dim; ++i) x[i] *= factor;
}

}  // namespace llama4rt
