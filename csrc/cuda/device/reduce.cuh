// Sums over a warp and over a block, in an order that depends on nothing but the number of threads.
#pragma once

#include "cuda/ptx/sync.cuh"
#include "cuda/ptx/warp.cuh"
#include "cuda/simt.h"

namespace llama4rt::cuda {

// The same sum in all lanes.
LLAMA4RT_DEVICE float warp_sum(float value) {
  for (int step = kWarpSize / 2; step > 0; step /= 2) value += ptx::shuffle_xor(value, step);
  return value;
}

// The same sum in all threads. Every thread of the block calls it, once: a second call would need a barrier
// before it.
template <int kThreads>
LLAMA4RT_DEVICE float block_sum(float value) {
  static_assert(kThreads % kWarpSize == 0);
  constexpr int kWarps = kThreads / kWarpSize;
  LLAMA4RT_SHARED(float, warp_sums, kWarps);
  value = warp_sum(value);
  if (lane_index() == 0) warp_sums[warp_index()] = value;
  ptx::sync_threads();
  float sum = 0.0f;
  for (int w = 0; w < kWarps; ++w) sum += warp_sums[w];
  return sum;
}

}  // namespace llama4rt::cuda
