// Sum over one row in the one order that all norms share.
#pragma once

#include "cpu/generic/vec.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

// Sum of x[0 .. dim): add(sum, sixteen values) gives the new sum of each lane. Lanes past the end of the row
// hold `fill`, for which `add` must change nothing.
// The sum runs in four lane vectors (i mod 64) so that the chain of additions does not wait for its own
// latency.
template <class Add>
LLAMA4RT_INLINE float row_sum(const float* x, int64_t dim, float fill, const Add& add) {
  Vec sum[4] = {Vec::zero(), Vec::zero(), Vec::zero(), Vec::zero()};
  int64_t i = 0;
  for (; i + 64 <= dim; i += 64)
    for (int j = 0; j < 4; ++j) sum[j] = add(sum[j], Vec::load(x + i + 16 * j));
  for (int j = 0; i < dim; i += 16, ++j) {
    if (i + 16 <= dim) {
      sum[j] = add(sum[j], Vec::load(x + i));
      continue;
    }
    alignas(64) float last[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) last[lane] = i + lane < dim ? x[i + lane] : fill;
    sum[j] = add(sum[j], Vec::load(last));
  }
  return reduce_add((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
