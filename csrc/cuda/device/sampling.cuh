// The arithmetic of sampling (ops/sampling.h), operation by operation as the host does it: nothing is fused,
// so weights have the host's bits. Sums of weights are integers, whose order does not matter.
#pragma once

#include "cuda/device/order.cuh"
#include "cuda/ptx/math.cuh"
#include "cuda/ptx/rounded.cuh"
#include "cuda/ptx/warp.cuh"
#include "cuda/simt.h"
#include "ops/sampling.h"

namespace llama4rt::cuda {

inline constexpr float kWeightOne = 0x1p34f;  // weight 1 as an integer
static_assert(kWeightBits == 34);

// sampling_exp of ops/sampling.h.
LLAMA4RT_DEVICE float exp_of_sampling(float x) {
  const float clamped = x < -87.0f ? -87.0f : x;
  const int n = int(ptx::add(ptx::mul(clamped, 1.44269504f), -0.5f));
  const float r =
      ptx::add(ptx::add(clamped, -ptx::mul(float(n), 0.693359375f)), ptx::mul(float(n), 2.12194440e-4f));
  float p = 1.9875691500e-4f;
  p = ptx::add(ptx::mul(p, r), 1.3981999507e-3f);
  p = ptx::add(ptx::mul(p, r), 8.3334519073e-3f);
  p = ptx::add(ptx::mul(p, r), 4.1665795894e-2f);
  p = ptx::add(ptx::mul(p, r), 1.6666665459e-1f);
  p = ptx::add(ptx::mul(p, r), 5.0000001201e-1f);
  const float e = ptx::add(ptx::add(ptx::mul(p, ptx::mul(r, r)), r), 1.0f);
  const float scaled = ptx::mul(e, ptx::float_from_bits(uint32_t(n + 127) << 23));
  return x < -87.0f ? 0.0f : scaled;
}

// The weight of a logit as an integer.
LLAMA4RT_DEVICE uint64_t weight_of(float logit, float max, float temperature, float min_p) {
  const float e = exp_of_sampling(ptx::add(logit, -max) / temperature);
  if (e < min_p) return 0;
  const float weight = e < 0x1p-11f ? ptx::add(ptx::add(e, 0x1p-11f), -0x1p-11f) : e;
  return uint64_t(weight * kWeightOne);  // exact
}

// The value whose order_key is `key`.
LLAMA4RT_DEVICE float value_of_key(uint32_t key) {
  return ptx::float_from_bits(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// The logit after a SampleEdit.
LLAMA4RT_DEVICE float edited(float logit, const SampleEdit& e, const SampleRow& row) {
  logit = ptx::add(logit, e.bias);
  if (e.seen == 0) return logit;
  const float count = float(e.seen & ~kSeen);
  logit = logit > 0.0f ? logit / row.repetition_penalty : ptx::mul(logit, row.repetition_penalty);
  logit = ptx::add(logit, -ptx::mul(row.frequency_penalty, count));
  return count > 0.0f ? ptx::add(logit, -row.presence_penalty) : logit;
}

LLAMA4RT_DEVICE uint64_t shuffle64(uint64_t value, int source) {
  return uint64_t(ptx::shuffle(uint32_t(value), source)) |
         uint64_t(ptx::shuffle(uint32_t(value >> 32), source)) << 32;
}

// The sum over the warp, in all lanes.
LLAMA4RT_DEVICE uint64_t warp_total(uint64_t value) {
  for (int step = kWarpSize / 2; step > 0; step /= 2) value += shuffle64(value, lane_index() ^ step);
  return value;
}

// The sum over this lane and the lanes below.
LLAMA4RT_DEVICE uint64_t warp_through(uint64_t value) {
  for (int step = 1; step < kWarpSize; step *= 2) {
    const uint64_t below = shuffle64(value, (lane_index() - step) & (kWarpSize - 1));
    if (lane_index() >= step) value += below;
  }
  return value;
}

}  // namespace llama4rt::cuda
