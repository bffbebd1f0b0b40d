// Attention in plain fp32, a warp per query head and token: for fp32 caches and for head dims that tensor
// cores do not take. Right for everything, fast for nothing.
//
// Keys go by in tiles of 32, a lane each; the sums of values are shared out by dims. The order depends on
// nothing but a key's distance from kv_begin.
#pragma once

#include "cuda/device/kv_layout.cuh"
#include "cuda/device/overlap.cuh"
#include "cuda/device/reciprocal.cuh"
#include "cuda/ptx/math.cuh"
#include "cuda/ptx/sync.cuh"
#include "cuda/ptx/warp.cuh"
#include "cuda/simt.h"

namespace llama4rt::cuda {

struct AttentionPlainArgs {
  float* out;      // [T, Hq * D], out_stride between rows
  const float* q;  // [T, Hq * D], q_stride
  KvBlocks kv;
  const int32_t* query_start;     // [S + 1]
  const int64_t* first_position;  // [S]
  const int64_t* kv_begin;        // [S]
  const int32_t* block_table;     // [S, max_blocks]
  int64_t out_stride;             // floats
  int64_t q_stride;
  int num_seqs;
  int max_blocks;
  int group;  // query heads per KV head
  float scale;
};

template <class ElementType, int kMaxHeadDim>
struct AttentionPlainConfig {
  using Element = ElementType;
  static constexpr int kDims = kMaxHeadDim / kWarpSize;  // of a lane
  static constexpr int kWarps = 4;
  static constexpr int kThreads = kWarps * kWarpSize;
};

LLAMA4RT_DEVICE float warp_max(float value) {
  for (int step = kWarpSize / 2; step > 0; step /= 2) {
    const float other = ptx::shuffle_xor(value, step);
    value = other > value ? other : value;
  }
  return value;
}

// The sequence that token `row` belongs to.
LLAMA4RT_DEVICE int sequence_of(const int32_t* query_start, int num_seqs, int64_t row) {
  int low = 0, high = num_seqs;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (row < query_start[middle])
      high = middle;
    else
      low = middle;
  }
  return low;
}

// Values of one KV head of one sequence.
template <class Element>
struct PlainKeys {
  const KvBlocks& kv;
  const int32_t* blocks;
  int head;

  LLAMA4RT_DEVICE int64_t place(int key, bool is_key, int d) const {
    const int inside = key % kv.block_size;
    const int64_t part = head_of_block(kv, blocks[key / kv.block_size], head);
    if constexpr (sizeof(typename Element::Storage) < 4)
      if (kv.cores)
        return part + (is_key ? key_place<Element>(kv, inside, d) : value_place<Element>(kv, inside, d));
    return part + plain_place(kv, inside, d);
  }
  LLAMA4RT_DEVICE float key(int key, int d) const {
    return Element::load(static_cast<const typename Element::Storage*>(kv.k) + place(key, true, d));
  }
  LLAMA4RT_DEVICE float value(int key, int d) const {
    return Element::load(static_cast<const typename Element::Storage*>(kv.v) + place(key, false, d));
  }
};

// Without the 2, ptxas aims at 40 registers and spills.
template <class Config>
__global__ void __launch_bounds__(Config::kThreads, 2) attention_plain_kernel(AttentionPlainArgs a) {
  wait_for_kernel_before();
  LLAMA4RT_SHARED(float, shared_weights, Config::kWarps* kWarpSize);
  const int heads = a.kv.num_heads * a.group, dim = a.kv.head_dim, lane = lane_index();
  const int64_t token = block_x();
  const int head = block_y() * Config::kWarps + warp_index();
  if (head >= heads) return;
  const int s = sequence_of(a.query_start, a.num_seqs, token);
  const int keys = int(a.first_position[s] + token - a.query_start[s] - a.kv_begin[s] + 1);
  const PlainKeys<typename Config::Element> cache{a.kv, a.block_table + int64_t(s) * a.max_blocks,
                                                  head / a.group};
  const float* q = a.q + token * a.q_stride + int64_t(head) * dim;
  float* const weights = shared_weights + warp_index() * kWarpSize;
  constexpr float kLog2E = 1.4426950408889634f;

  float maximum = 0.0f, sum = 0.0f, out[Config::kDims];
  for (int i = 0; i < Config::kDims; ++i) out[i] = 0.0f;
  for (int first = 0; first < keys; first += kWarpSize) {
    const int in_tile = keys - first < kWarpSize ? keys - first : kWarpSize;
    // Lanes without a key, or without a dim below, go over the last one again: no branch where lanes part.
    const int key = first + (lane < in_tile ? lane : in_tile - 1);
    float score = 0.0f;
    for (int d = 0; d < dim; ++d) score = ptx::fma(q[d], cache.key(key, d), score);
    score *= a.scale;
    const float top = warp_max(lane < in_tile ? score : ptx::float_from_bits(0xff800000u));  // or -inf
    const float next = first == 0 || top > maximum ? top : maximum;
    const float factor = first == 0 ? 0.0f : ptx::exp2((maximum - next) * kLog2E);
    maximum = next;
    const float weight = lane < in_tile ? ptx::exp2((score - maximum) * kLog2E) : 0.0f;
    weights[lane] = weight;
    ptx::sync_warp(0xffffffffu);
    sum *= factor;
    for (int i = 0; i < Config::kDims; ++i) out[i] *= factor;
    for (int j = 0; j < in_tile; ++j) {
      sum += weights[j];
      for (int i = 0; i < Config::kDims; ++i) {
        const int d = lane + i * kWarpSize;
        out[i] = ptx::fma(weights[j], cache.value(first + j, d < dim ? d : dim - 1), out[i]);
      }
    }
    ptx::sync_warp(0xffffffffu);
  }
  const float inverse = reciprocal(sum);
  float* to = a.out + token * a.out_stride + int64_t(head) * dim;
  for (int i = 0; i < Config::kDims; ++i)
    if (lane + i * kWarpSize < dim) to[lane + i * kWarpSize] = out[i] * inverse;
}

}  // namespace llama4rt::cuda
