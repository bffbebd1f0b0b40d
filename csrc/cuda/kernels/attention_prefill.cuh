// Attention of many rows, with mma: 64 rows of one KV head, 16 a warp, against tiles of 64 keys that all four
// warps share. One tile is multiplied while cp.async brings the next. Splits are merged in registers as they
// end, in the order in which attention_decode merges them: the same bits.
//
// The same kernel serves pictures (rows_per_tile > 0): every row sees all keys of its tile, which tile_pack
// laid out as one block of a cache.
#pragma once

#include "cuda/device/attention_tile.cuh"
#include "cuda/device/overlap.cuh"
#include "cuda/ptx/cp_async.cuh"
#include "cuda/ptx/memory.cuh"
#include "cuda/ptx/sync.cuh"

namespace llama4rt::cuda {

template <class HeadType>
struct AttentionPrefillConfig {
  using Head = HeadType;
  static constexpr int kWarps = 4;
  static constexpr int kThreads = kWarps * kWarpSize;
  static constexpr int kRows = kWarps * kWarpRows;
  static constexpr int kStageBytes = 2 * kTileGranules * Head::kMaxGranuleBytes;  // keys, then values
  static constexpr int kSharedBytes = 2 * kStageBytes;
};

// Starts copying the granules of tile `tile` that hold any of the first `keys` keys.
template <class Config>
LLAMA4RT_DEVICE void load_key_tile(const AttentionArgs& a, const RowsOfSequence& s, int sequence, int kv_head,
                                   uint32_t stage, int tile, int64_t keys) {
  using Head = typename Config::Head;
  using Storage = typename Head::Element::Storage;
  const int per_block = a.kv.block_size / kGranuleKeys;
  for (int i = 0; i < kTileGranules; ++i) {
    const int granule = tile * kTileGranules + i;
    if (int64_t(granule) * kGranuleKeys >= keys) break;
    const int64_t block = s.blocks ? s.blocks[granule / per_block] : sequence;
    const int64_t place =
        head_of_block(a.kv, block, kv_head) + granule % per_block * kGranuleKeys * Head::dim(a.kv.head_dim);
    const auto* k = reinterpret_cast<const unsigned char*>(static_cast<const Storage*>(a.kv.k) + place);
    const auto* v = reinterpret_cast<const unsigned char*>(static_cast<const Storage*>(a.kv.v) + place);
    const uint32_t to = stage + uint32_t(i * Head::kMaxGranuleBytes);
    for (int at = thread_x() * 16; at < Head::granule_bytes(a.kv.head_dim); at += Config::kThreads * 16) {
      ptx::copy_async_16(to + uint32_t(at), k + at, 16);
      ptx::copy_async_16(to + uint32_t(kTileGranules * Head::kMaxGranuleBytes + at), v + at, 16);
    }
  }
}

template <class Head>
LLAMA4RT_DEVICE void attend_tile(RowState<Head>& state, const QueryRows<Head>& q, uint32_t stage,
                                 int64_t first_key, int64_t keys, const AttentionArgs& a) {
  float scores[2 * kTileGranules][4] = {};
  for (int i = 0; i < kTileGranules; ++i)
    if (first_key + i * kGranuleKeys < keys)
      add_scores(scores[2 * i], scores[2 * i + 1], q, stage + uint32_t(i * Head::kMaxGranuleBytes),
                 a.kv.head_dim);
  uint32_t weights[kTileGranules][4];
  weigh(weights, scores, state, q, first_key, a.scale);
  for (int i = 0; i < kTileGranules; ++i) {
    const int64_t left = keys - first_key - i * kGranuleKeys;
    if (left > 0)
      add_values<Head>(state.out, weights[i], stage + uint32_t((kTileGranules + i) * Head::kMaxGranuleBytes),
                       left < kGranuleKeys ? int(left) : kGranuleKeys, a.kv.head_dim);
  }
}

// A block: 64 rows (x, the last first: they see the most keys) of one KV head (y) of one sequence (z).
template <class Config>
__global__ void __launch_bounds__(Config::kThreads) attention_prefill_kernel(AttentionArgs a) {
  wait_for_kernel_before();
  using Head = typename Config::Head;
  const int kv_head = block_y(), sequence = block_z();
  const int block_row = (grid_x() - 1 - block_x()) * Config::kRows;
  const RowsOfSequence s(a, sequence);
  if (block_row >= s.num_rows) return;
  const auto keys_before = [&](int end) { return s.keys(a, (end < s.num_rows ? end : s.num_rows) - 1); };
  const int64_t keys = keys_before(block_row + Config::kRows);
  const int first_row = block_row + warp_index() * kWarpRows;
  const int64_t warp_keys = first_row < s.num_rows ? keys_before(first_row + kWarpRows) : 0;
  const uint32_t stages = ptx::shared_address(dynamic_shared());
  const auto stage = [&](int tile) { return stages + uint32_t(tile % 2 * Config::kStageBytes); };

  load_key_tile<Config>(a, s, sequence, kv_head, stage(0), 0, keys);
  ptx::copy_commit();
  QueryRows<Head> q;
  q.load(a, s, first_row, kv_head);
  RowState<Head> total, split;
  total.clear();
  split.clear();
  int splits = 0;
  for (int tile = 0; int64_t(tile) * kTileKeys < keys; ++tile) {
    ptx::copy_wait<0>();
    ptx::sync_threads();  // all copies are here, and no thread reads the other stage any more
    load_key_tile<Config>(a, s, sequence, kv_head, stage(tile + 1), tile + 1, keys);
    ptx::copy_commit();
    const int64_t first_key = int64_t(tile) * kTileKeys;
    if (first_key < warp_keys) attend_tile(split, q, stage(tile), first_key, warp_keys, a);
    if (first_key + kTileKeys == Splits::begin(splits + 1)) {
      merge_split(total, split, a.scale);
      split.clear();
      ++splits;
    }
  }
  merge_split(total, split, a.scale);
  store_rows(a, s, total, first_row, kv_head);
}

}  // namespace llama4rt::cuda
