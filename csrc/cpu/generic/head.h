// What happens to one query or key head between its linear op and attention.
#pragma once

#include "cpu/generic/rmsnorm.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

// Rotation of adjacent pairs: (re, im) -> (re c - im s, im c + re s), sixteen lanes = eight pairs at a time.
inline void rotate_pairs(float* head, const float* angles, int64_t dim) {
  for (int64_t i = 0; i < dim; i += kLanes) {
    const int n = dim - i < kLanes ? int(dim - i) : kLanes;
    const Vec x = n == kLanes ? Vec::load(head + i) : Vec::load_partial(head + i, n);
    const Vec a = n == kLanes ? Vec::load(angles + i) : Vec::load_partial(angles + i, n);
    const Vec y = fma_alternate(x, even_lanes(a), swap_pairs(x) * odd_lanes(a));
    n == kLanes ? y.store(head + i) : y.store_partial(head + i, n);
  }
}

inline void transform_head(float* head, const float* angles, float norm_eps, float scale, int64_t dim) {
  if (angles) rotate_pairs(head, angles, dim);
  const bool normalise = norm_eps >= 0;
  if (!normalise && scale == 1.0f) return;
  const Vec inverse = Vec::set1(normalise ? inverse_rms(head, dim, norm_eps) : 1.0f);
  for (int64_t i = 0; i < dim; i += kLanes) {
    const int n = dim - i < kLanes ? int(dim - i) : kLanes;
    const Vec x = n == kLanes ? Vec::load(head + i) : Vec::load_partial(head + i, n);
    const Vec y = x * inverse * Vec::set1(scale);
    n == kLanes ? y.store(head + i) : y.store_partial(head + i, n);
  }
}

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
