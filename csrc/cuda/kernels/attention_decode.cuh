// Attention of few rows over many keys. The keys of a sequence are cut into splits (attention_splits.h); one
// warp takes one split for 16 rows of one KV head. A row is one query head of one token; a token has 5 in
// Llama 4.
//
//                 keys of a sequence, oldest first             grid x: tile of 16 rows, KV head
//              split 0  split 1  split 2  split 3  split 4    grid y: sequence
//             +--------+--------+--------+--------+-- ...      grid z: splits, 4 at a time
//   KV head 0 | warp 0 | warp 1 | warp 2 | warp 3 | warp 0
//             +--------+--------+--------+--------+-- ...
//   KV head 1 | warp 0 | warp 1 | warp 2 | warp 3 | warp 0
//             +--------+--------+--------+--------+-- ...
//              \___________ block z = 0 _________/ \_ block z = 1 ...
//
//   a warp's stream of granules (16 keys or 16 values of a head; 4 KB with bf16 heads of 128):
//
//             | K K K K | V V V V | K K K K | V V V V | ...     a tile of 64 keys: 4 granules of K, 4 of V
//                 ^ \_______________/
//                 |   the next 7 are being copied (cp.async): 28 KB in flight
//                 being multiplied
//
//   registers of a warp:       queries [16][D] bf16, and of the split so far: maximum, sum, out [16][D] fp32
//   shared memory of a block:  4 warps x 8 stages of one granule; each warp uses its own, without barriers
//   global memory:             states [S][row tiles][Hkv][splits][rows][D + 2]: maximum, sum, out of each split
//
// Every byte of the cache is read once. The last block to store its states (a ticket) merges them, splits
// ascending. The grid has at most 512 blocks along z; where there are more splits, a warp takes every n-th.
// Rows beyond 16 take further row tiles, which read the keys again; attention_prefill is for those.
#pragma once

#include "cuda/device/attention_tile.cuh"
#include "cuda/device/finish.cuh"
#include "cuda/device/overlap.cuh"
#include "cuda/ptx/cp_async.cuh"
#include "cuda/ptx/memory.cuh"
#include "cuda/ptx/sync.cuh"

namespace llama4rt::cuda {

template <class HeadType, int kNumWarps>
struct AttentionDecodeConfig {
  using Head = HeadType;
  static constexpr int kWarps = kNumWarps;  // of a block; no bit depends on it
  static constexpr int kThreads = kWarps * kWarpSize;
  static constexpr int kStages = 8;  // granules of keys or of values
  static constexpr int kSharedBytes = kWarps * kStages * Head::kMaxGranuleBytes;
};

// The granules of one split, as one warp reads them: four of keys and four of values for each tile of 64 keys.
template <class Config>
struct GranuleStream {
  using Head = typename Config::Head;
  using Storage = typename Head::Element::Storage;
  const AttentionArgs& a;
  const int32_t* blocks;
  int kv_head;
  uint32_t stages;        // shared address of this warp's
  int first_granule = 0;  // of the split
  int granules = 0;       // of the split
  uint32_t window = 0;    // lane i: the block of granule i of the 32 that are being loaded

  // The last part of the split before was in the last stage, and open() fills all others: no lane can still be
  // reading them.
  static_assert(2 * kTileGranules % Config::kStages == 0);
  LLAMA4RT_DEVICE void open(int64_t begin, int64_t end) {
    first_granule = int(begin / kGranuleKeys);
    granules = int((end - begin + kGranuleKeys - 1) / kGranuleKeys);
    for (int n = 0; n < Config::kStages - 1; ++n) load(n);
  }
  LLAMA4RT_DEVICE uint32_t stage(int n) const {
    return stages + uint32_t(n % Config::kStages * Head::kMaxGranuleBytes);
  }
  // Waits for part n (all lanes' copies) and starts copying the part that takes the place of n - 1.
  LLAMA4RT_DEVICE uint32_t arrive(int n) {
    ptx::copy_wait<Config::kStages - 2>();
    ptx::sync_warp(0xffffffffu);
    load(n + Config::kStages - 1);
    return stage(n);
  }
  LLAMA4RT_DEVICE bool has(int granule) const { return granule < granules; }

 private:
  // Part n of the stream; past the end only the group of copies is counted.
  LLAMA4RT_DEVICE void load(int n) {
    const int tile = n / (2 * kTileGranules), part = n % (2 * kTileGranules);
    const int granule = tile * kTileGranules + part % kTileGranules;
    const int per_block = a.kv.block_size / kGranuleKeys;
    if (granule % kWarpSize == 0 && part == 0) {
      const int mine = granule + lane_index();
      window = mine < granules ? uint32_t(blocks[(first_granule + mine) / per_block]) : 0;
    }
    if (granule < granules) {
      const int64_t block = int64_t(ptx::shuffle(window, granule % kWarpSize));
      const int inside = (first_granule + granule) % per_block * kGranuleKeys * Head::dim(a.kv.head_dim);
      const void* const side = part < kTileGranules ? a.kv.k : a.kv.v;
      const auto* src = reinterpret_cast<const unsigned char*>(static_cast<const Storage*>(side) +
                                                               head_of_block(a.kv, block, kv_head) + inside);
      const uint32_t dst = stage(n);
      for (int i = lane_index() * 16; i < Head::granule_bytes(a.kv.head_dim); i += kWarpSize * 16)
        ptx::copy_async_16(dst + uint32_t(i), src + i, 16);
    }
    ptx::copy_commit();
  }
};

// The rows' state after `keys` keys from key `begin` on.
template <class Config>
LLAMA4RT_DEVICE void attend_split(RowState<typename Config::Head>& state,
                                  const QueryRows<typename Config::Head>& q, GranuleStream<Config>& stream,
                                  int64_t begin, int keys) {
  const AttentionArgs& a = stream.a;
  state.clear();
  for (int tile = 0; tile * kTileKeys < keys; ++tile) {
    const int part = tile * 2 * kTileGranules, granule = tile * kTileGranules;
    float scores[2 * kTileGranules][4] = {};
    for (int i = 0; i < kTileGranules; ++i) {
      const uint32_t granule_keys = stream.arrive(part + i);
      if (stream.has(granule + i))
        add_scores(scores[2 * i], scores[2 * i + 1], q, granule_keys, a.kv.head_dim);
    }
    uint32_t weights[kTileGranules][4];
    weigh(weights, scores, state, q, begin + tile * kTileKeys, a.scale);
    for (int i = 0; i < kTileGranules; ++i) {
      const uint32_t values = stream.arrive(part + kTileGranules + i);
      if (stream.has(granule + i))
        add_values<typename Config::Head>(state.out, weights[i], values, keys - (granule + i) * kGranuleKeys,
                                          a.kv.head_dim);
    }
  }
}

// Puts a split's result where the block that merges looks for it: maximum, sum and D numbers of each row.
template <class Head>
LLAMA4RT_DEVICE void store_state(float* states, const RowState<Head>& state, int rows, int head_dim) {
  const int g = lane_index() / 4, t = lane_index() % 4, stride = Head::dim(head_dim) + 2;
  for (int half = 0; half < 2; ++half) {
    const float sum = row_sum(state.sum[half]);
    const int row = g + 8 * half;
    if (row >= rows) continue;
    float* const to = states + row * stride;
    if (t == 0) to[0] = state.maximum[half], to[1] = sum;
    for (int j = 0; j < Head::kOctets; ++j) {
      if (!Head::has(8 * j, head_dim)) break;
      to[2 + 8 * j + 2 * t] = state.out[j][2 * half];
      to[2 + 8 * j + 2 * t + 1] = state.out[j][2 * half + 1];
    }
  }
}

// A block: 16 rows (x: tile and KV head) of one sequence (y), four splits at a time (z).
template <class Config>
__global__ void __launch_bounds__(Config::kThreads) attention_decode_kernel(AttentionArgs a) {
  wait_for_kernel_before();
  using Head = typename Config::Head;
  const int kv_head = block_x() % a.kv.num_heads, first_row = block_x() / a.kv.num_heads * kWarpRows;
  const RowsOfSequence s(a, block_y());
  if (first_row >= s.num_rows) return;
  const int rows = s.num_rows - first_row < kWarpRows ? s.num_rows - first_row : kWarpRows;
  const int64_t keys = s.keys(a, first_row + rows - 1);
  const int splits = Splits::count(keys);
  if (block_z() * Config::kWarps >= splits) return;
  const int64_t place = int64_t(block_y()) * grid_x() + block_x();
  const int row_floats = Head::dim(a.kv.head_dim) + 2;
  const int64_t state_floats = int64_t(a.state_rows) * row_floats;
  float* const states = a.states + place * a.max_splits * state_floats;

  QueryRows<Head> q;
  q.load(a, s, first_row, kv_head);
  GranuleStream<Config> stream{a, s.blocks, kv_head,
                               ptx::shared_address(dynamic_shared()) +
                                   uint32_t(warp_index() * Config::kStages * Head::kMaxGranuleBytes)};
  for (int split = block_z() * Config::kWarps + warp_index(); split < splits;
       split += grid_z() * Config::kWarps) {
    const int64_t begin = Splits::begin(split), next = Splits::begin(split + 1),
                  end = next < keys ? next : keys;
    stream.open(begin, end);
    RowState<Head> state;
    attend_split<Config>(state, q, stream, begin, int(end - begin));
    store_state(states + split * state_floats, state, rows, a.kv.head_dim);
  }

  const int blocks = (splits + Config::kWarps - 1) / Config::kWarps;
  if (!last_to_arrive(a.tickets + place, blocks < grid_z() ? blocks : grid_z())) return;
  const int dim = Head::dim(a.kv.head_dim);
  for (int i = thread_x(); i < rows * dim; i += Config::kThreads) {
    const int row = i / dim, d = i % dim;
    float maximum = minus_infinity(), sum = 0.0f, out = 0.0f;
    for (int split = 0; split < splits; ++split) {
      const float* const state = states + split * state_floats + row * row_floats;
      const Merge merge(maximum, state[0], a.scale);
      maximum = merge.maximum;
      sum = merge(sum, state[1]);
      out = merge(out, state[2 + d]);
    }
    const int r = first_row + row;
    a.out[(s.first_row + r / a.group) * a.out_stride + int64_t(kv_head * a.group + r % a.group) * a.q_dim +
          d] = out * reciprocal(sum);
  }
}

}  // namespace llama4rt::cuda
