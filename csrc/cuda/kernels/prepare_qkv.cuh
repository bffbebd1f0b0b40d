// prepare_qkv: rotation, norm, temperature and the write into the KV cache, all in one pass over q, k and v.
#pragma once

#include "cuda/device/kv_layout.cuh"
#include "cuda/device/overlap.cuh"
#include "cuda/device/reduce.cuh"
#include "cuda/ptx/math.cuh"
#include "cuda/simt.h"

namespace llama4rt::cuda {

struct PrepareQkvArgs {
  float* q;              // [T, Hq * D], q_stride between rows; in place
  float* k;              // [T, Hkv * D], k_stride; in place
  const float* v;        // [T, Hkv * D], v_stride
  const float* rope;     // [T, D / 2, 2] cos and sin, or null
  const float* q_scale;  // [T], or null
  const int64_t* slots;  // [T] block * P + offset
  KvBlocks kv;
  int64_t q_stride;  // floats
  int64_t k_stride;
  int64_t v_stride;
  int num_q_heads;
  bool qk_norm;
  float eps;
};

template <class ElementType, int kMaxHeadDim>
struct PrepareQkvConfig {
  using Element = ElementType;
  static constexpr int kPairs = (kMaxHeadDim / 2 + kWarpSize - 1) / kWarpSize;  // of adjacent dims, per lane
  static constexpr int kWarps = 4;
  static constexpr int kThreads = kWarps * kWarpSize;
};

// One head of one token: a warp's work. Lane i holds the pairs i, i + 32, ...
template <class Config>
struct HeadPairs {
  float re[Config::kPairs], im[Config::kPairs];
  int pairs;  // D / 2

  LLAMA4RT_DEVICE int pair(int i) const { return lane_index() + i * kWarpSize; }
  LLAMA4RT_DEVICE void load(const float* head) {
    for (int i = 0; i < Config::kPairs; ++i) {
      const bool exists = pair(i) < pairs;
      re[i] = exists ? head[2 * pair(i)] : 0.0f;
      im[i] = exists ? head[2 * pair(i) + 1] : 0.0f;
    }
  }
  LLAMA4RT_DEVICE void rotate(const float* angles) {
    for (int i = 0; i < Config::kPairs; ++i) {
      if (pair(i) >= pairs) continue;
      const float cosine = angles[2 * pair(i)], sine = angles[2 * pair(i) + 1], x = re[i], y = im[i];
      re[i] = ptx::fma(x, cosine, -(y * sine));
      im[i] = ptx::fma(x, sine, y * cosine);
    }
  }
  LLAMA4RT_DEVICE void normalise(float eps) {
    float sum = 0.0f;
    for (int i = 0; i < Config::kPairs; ++i) sum = ptx::fma(re[i], re[i], ptx::fma(im[i], im[i], sum));
    multiply(ptx::rsqrt(warp_sum(sum) / float(2 * pairs) + eps));
  }
  LLAMA4RT_DEVICE void multiply(float factor) {
    for (int i = 0; i < Config::kPairs; ++i) re[i] *= factor, im[i] *= factor;
  }
  LLAMA4RT_DEVICE void store(float* head) const {
    for (int i = 0; i < Config::kPairs; ++i)
      if (pair(i) < pairs) head[2 * pair(i)] = re[i], head[2 * pair(i) + 1] = im[i];
  }
  // place(d) is the index of dim d in `head`.
  template <class Place>
  LLAMA4RT_DEVICE void store_kv(typename Config::Element::Storage* head, const Place& place) const {
    for (int i = 0; i < Config::kPairs; ++i) {
      if (pair(i) >= pairs) continue;
      Config::Element::store(head + place(2 * pair(i)), re[i]);
      Config::Element::store(head + place(2 * pair(i) + 1), im[i]);
    }
  }
};

template <class Config>
LLAMA4RT_DEVICE void store_in_cache(const HeadPairs<Config>& x, const KvBlocks& kv, bool is_key, int64_t slot,
                                    int head) {
  using Element = typename Config::Element;
  auto* const cache = static_cast<typename Element::Storage*>(is_key ? kv.k : kv.v);
  auto* const part = cache + head_of_block(kv, slot / kv.block_size, head);
  const int key = int(slot % kv.block_size);
  x.store_kv(part, [&](int d) {
    if constexpr (sizeof(typename Element::Storage) < 4)
      if (kv.cores) return is_key ? key_place<Element>(kv, key, d) : value_place<Element>(kv, key, d);
    return plain_place(kv, key, d);
  });
}

// Blocks (x: tokens); the warps of a token's blocks count through its heads of q, k and v.
template <class Config>
__global__ void __launch_bounds__(Config::kThreads) prepare_qkv_kernel(PrepareQkvArgs a) {
  wait_for_kernel_before();
  const int heads = a.num_q_heads + 2 * a.kv.num_heads;
  const int64_t token = block_x();
  const int head = block_y() * Config::kWarps + warp_index(),
            kv_head = (head - a.num_q_heads) % a.kv.num_heads;
  if (head >= heads) return;
  const bool is_q = head < a.num_q_heads, is_value = head >= a.num_q_heads + a.kv.num_heads;
  const int dim = a.kv.head_dim;

  HeadPairs<Config> x;
  x.pairs = dim / 2;
  if (is_value) {
    x.load(a.v + token * a.v_stride + int64_t(kv_head) * dim);
    store_in_cache(x, a.kv, false, a.slots[token], kv_head);
    return;
  }
  float* const in_place = is_q ? a.q + token * a.q_stride + int64_t(head) * dim
                               : a.k + token * a.k_stride + int64_t(kv_head) * dim;
  x.load(in_place);
  if (a.rope) x.rotate(a.rope + token * dim);
  if (a.qk_norm) x.normalise(a.eps);
  if (is_q && a.q_scale) x.multiply(a.q_scale[token]);
  x.store(in_place);
  if (!is_q) store_in_cache(x, a.kv, true, a.slots[token], kv_head);
}

}  // namespace llama4rt::cuda
