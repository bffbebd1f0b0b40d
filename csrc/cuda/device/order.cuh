// Floats as integers of the same order, for searches and comparisons that must agree with the host on ties.
#pragma once

#include "cuda/ptx/rounded.cuh"
#include "cuda/ptx/warp.cuh"
#include "cuda/simt.h"

namespace llama4rt::cuda {

// Larger floats have larger keys; -0 equals 0; NaN is below everything (0).
LLAMA4RT_DEVICE uint32_t order_key(float x) {
  if (!(x == x)) return 0;
  const uint32_t bits = ptx::bits_from_float(x == 0.0f ? 0.0f : x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// A value and where it stands: larger keys first, among equals the lower index.
struct Ranked {
  uint32_t key = 0;
  int index = 0x7fffffff;

  LLAMA4RT_DEVICE bool before(const Ranked& other) const {
    return key != other.key ? key > other.key : index < other.index;
  }
};

// The best of the warp, in all lanes.
LLAMA4RT_DEVICE Ranked warp_best(Ranked best) {
  for (int step = kWarpSize / 2; step > 0; step /= 2) {
    const Ranked other{ptx::shuffle(best.key, lane_index() ^ step),
                       int(ptx::shuffle(uint32_t(best.index), lane_index() ^ step))};
    if (other.before(best)) best = other;
  }
  return best;
}

}  // namespace llama4rt::cuda
