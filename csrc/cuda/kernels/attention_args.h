// From an AttentionCall to the arguments of the kernels with mma, and the choice of their head type.
#pragma once

#include <type_traits>

#include "cuda/device/attention_tile.cuh"
#include "cuda/kernels/kv_launch.h"

namespace llama4rt::cuda {

inline AttentionArgs attention_args(const AttentionCall& call) {
  constexpr float kLog2E = 1.4426950408889634f;
  const KvLayer& kv = call.kv;
  return {.out = call.out.ptr<float>(),
          .q = call.q.ptr<const float>(),
          .kv = kv_blocks(kv),
          .query_start = call.batch.query_start,
          .first_position = call.batch.first_position,
          .kv_begin = call.batch.kv_begin,
          .block_table = call.batch.block_table,
          .states = nullptr,
          .tickets = nullptr,
          .out_stride = call.out.stride0,
          .q_stride = call.q.stride0,
          .q_dim = kv.head_dim,
          .group = call.group(),
          .max_blocks = call.batch.max_blocks,
          .max_splits = 0,
          .state_rows = 0,
          .rows_per_tile = 0,
          .scale = call.scale * kLog2E};
}

// Calls start(HeadConfig) with the type for this cache: heads of 128 dims, the released models', know their
// size when they are compiled.
template <class Element, class Start>
void with_head(int head_dim, const Start& start) {
  if (head_dim == 128) return start(HeadConfig<Element, 128, true>{});
  if (head_dim <= 64) return start(HeadConfig<Element, 64, false>{});
  start(HeadConfig<Element, 128, false>{});
}
template <class Start>
void with_head(const KvLayer& kv, const Start& start) {
  with_kv_element("attention", kv, [&]<class Element>() {
    if constexpr (std::is_same_v<Element, KvF32>)
      throw_no_kv_kernel("attention", kv);  // not in cores
    else
      with_head<Element>(kv.head_dim, start);
  });
}

}  // namespace llama4rt::cuda
