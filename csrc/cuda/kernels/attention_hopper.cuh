// Attention of many rows with wgmma, for Hopper: bf16 caches, heads of 64 or 128 dims.
//
// A block has two warp groups of 64 rows, which share every tile of 64 keys. For each tile:
//
//   load     warp 0    bulk copies of K and V, two tiles ahead, into a ring of 4 stages
//   scores   a group   S = Q K^T    Q and K from shared memory, S in registers
//   weigh    a group   P            in registers (attention_tile.cuh)
//   values   a group   O += P V     P from registers, V from shared memory
//
// A granule is contiguous in memory and already consists of the 8 x 16-byte cores that wgmma takes without
// swizzle, V transposed: one bulk copy each, no tensor map, no bank conflicts. While one group weighs, the
// other's products keep the tensor cores busy.
//
// Steps of 16 dims and of 16 keys ascend as they do in attention_decode and attention_prefill, tiles and
// splits are the same, and what a row may not see has weight 0: the same bits, as far as wgmma adds like mma
// (the emulator's do; a GPU's are to be compared). An incomplete last tile is multiplied with mma: what lies
// behind the last key may be anything, and wgmma knows no masks.
#pragma once

#include "cuda/device/attention_tile.cuh"
#include "cuda/device/overlap.cuh"
#include "cuda/ptx/mbarrier.cuh"
#include "cuda/ptx/memory.cuh"
#include "cuda/ptx/sync.cuh"
#include "cuda/ptx/tma.cuh"
#include "cuda/ptx/wgmma.cuh"

namespace llama4rt::cuda {

template <int kHeadDim>
struct AttentionHopperConfig {
  using Head = HeadConfig<KvBF16, kHeadDim, true>;
  static constexpr int kGroups = 2;      // consumer warp groups
  static constexpr int kGroupRows = 64;  // of one of them
  static constexpr int kRows = kGroups * kGroupRows;
  static constexpr int kThreads = kGroups * 128;  // up to 255 registers each
  static constexpr int kAhead = 2;                // tiles under way while one is multiplied
  static constexpr int kStages = kAhead + 2;      // so that warp 0 need not wait for the slowest warp
  static constexpr int kSideBytes = kTileGranules * Head::kMaxGranuleBytes;  // keys or values of a tile
  static constexpr int kStageBytes = 2 * kSideBytes;
  static constexpr int kOctetBytes = Head::kMaxGranuleBytes / 2;  // 8 keys, all dims
  static constexpr int kQueryBytes = kGroupRows * kHeadDim * 2;   // of one group
  static constexpr int kBarrierBytes = 1024;
  static constexpr int kSharedBytes = kBarrierBytes + kGroups * kQueryBytes + kStages * kStageBytes;
  static_assert(kHeadDim == 64 || kHeadDim == 128);
};

// Shared memory of a block.
template <class Config>
struct HopperShared {
  uint32_t base = ptx::shared_address(dynamic_shared());

  LLAMA4RT_DEVICE uint32_t full(int tile) const { return base + uint32_t(tile % Config::kStages * 16); }
  LLAMA4RT_DEVICE uint32_t empty(int tile) const { return full(tile) + 8; }
  // Cores [8: row / 8][D / 8] of a group's queries.
  LLAMA4RT_DEVICE uint32_t queries(int group) const {
    return base + uint32_t(Config::kBarrierBytes + group * Config::kQueryBytes);
  }
  LLAMA4RT_DEVICE uint32_t keys(int tile) const {
    return queries(Config::kGroups) + uint32_t(tile % Config::kStages * Config::kStageBytes);
  }
  LLAMA4RT_DEVICE uint32_t values(int tile) const { return keys(tile) + uint32_t(Config::kSideBytes); }
  // The parity of the phase in which a stage holds `tile`.
  static LLAMA4RT_DEVICE uint32_t parity(int tile) { return uint32_t(tile / Config::kStages % 2); }
};

// The loads of one block, made by warp 0. Lanes 0..3: granules of keys, 4..7: of values.
template <class Config>
struct TileLoads {
  using Head = typename Config::Head;
  const AttentionArgs& a;
  const int32_t* blocks;
  int kv_head;
  int64_t keys;
  const HopperShared<Config>& shared;
  int32_t block = 0;  // of this lane's granule in the next tile: asked for one tile early

  LLAMA4RT_DEVICE int granule(int tile) const { return tile * kTileGranules + lane_index() % kTileGranules; }
  LLAMA4RT_DEVICE bool mine(int tile) const {
    return lane_index() < 2 * kTileGranules && int64_t(granule(tile)) * kGranuleKeys < keys;
  }
  LLAMA4RT_DEVICE void look_up(int tile) {
    if (mine(tile)) block = blocks[granule(tile) / (a.kv.block_size / kGranuleKeys)];
  }
  LLAMA4RT_DEVICE void load(int tile) {
    const int64_t left = keys - int64_t(tile) * kTileKeys;
    if (left <= 0) return;
    const int granules = left < kTileKeys ? int(left + kGranuleKeys - 1) / kGranuleKeys : kTileGranules;
    if (tile >= Config::kStages) ptx::mbarrier_wait(shared.empty(tile), shared.parity(tile) ^ 1);
    if (lane_index() == 0)
      ptx::mbarrier_arrive_expect(shared.full(tile), 2 * granules * Head::kMaxGranuleBytes);
    if (mine(tile)) {
      const bool is_value = lane_index() >= kTileGranules;
      const int inside = granule(tile) % (a.kv.block_size / kGranuleKeys) * kGranuleKeys * Head::kMaxDim;
      const auto* const side = static_cast<const uint16_t*>(is_value ? a.kv.v : a.kv.k);
      ptx::bulk_load((is_value ? shared.values(tile) : shared.keys(tile)) +
                         uint32_t(lane_index() % kTileGranules * Head::kMaxGranuleBytes),
                     side + head_of_block(a.kv, block, kv_head) + inside, Head::kMaxGranuleBytes,
                     shared.full(tile));
    }
    look_up(tile + 1);
  }
};

// The queries of a group, rounded, into its cores. Rows that do not exist become zeros.
template <class Config>
LLAMA4RT_DEVICE void store_queries(unsigned char* to, const AttentionArgs& a, const RowsOfSequence& s,
                                   int first_row, int kv_head) {
  constexpr int kDim = Config::Head::kMaxDim, kPairs = kDim / 2;
  for (int i = thread_x() % 128; i < Config::kGroupRows * kPairs; i += 128) {
    const int r = i / kPairs, d = i % kPairs * 2, row = first_row + r;
    uint32_t pair = 0;
    if (row < s.num_rows) {
      const float* q = a.q + (s.first_row + row / a.group) * a.q_stride +
                       int64_t(kv_head * a.group + row % a.group) * a.q_dim + d;
      pair = ptx::pack_bf16(q[0], q[1]);
    }
    *reinterpret_cast<uint32_t*>(to + r / 8 * (kDim / 8 * 128) + d / 8 * 128 + r % 8 * 16 + d % 8 * 2) = pair;
  }
}

// scores = Q K^T for a whole tile.
template <class Config>
LLAMA4RT_DEVICE void multiply_keys(float (&scores)[2 * kTileGranules][4], uint32_t queries, uint32_t keys) {
  constexpr int kRowOctet = Config::Head::kMaxDim / 8 * 128;
  ptx::wgmma_fence();
  for (int step = 0; step < Config::Head::kSteps; ++step) {
    const uint32_t dims = uint32_t(step * 256);
    ptx::wgmma_m64n64k16(reinterpret_cast<float (&)[32]>(scores),
                         ptx::wgmma_descriptor(queries + dims, 128, kRowOctet, Swizzle::kNone),
                         ptx::wgmma_descriptor(keys + dims, 128, Config::kOctetBytes, Swizzle::kNone),
                         step > 0);
  }
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
}

// out += P V for a whole tile.
template <class Config>
LLAMA4RT_DEVICE void multiply_values(RowState<typename Config::Head>& state,
                                     const uint32_t (&weights)[kTileGranules][4], uint32_t values) {
  using Head = typename Config::Head;
  ptx::wgmma_fence();
  for (int i = 0; i < kTileGranules; ++i)
    for (int half = 0; half < Head::kMaxDim / 64; ++half)
      ptx::wgmma_m64n64k16(reinterpret_cast<float (&)[32]>(state.out[8 * half]), weights[i],
                           ptx::wgmma_descriptor(values + uint32_t(i * Head::kMaxGranuleBytes + half * 1024),
                                                 Config::kOctetBytes, 128, Swizzle::kNone),
                           true);
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
}

// The last tile, whose first `keys` keys exist, warp by warp with mma.   queries: shared address of the
// warp's rows
template <class Head>
LLAMA4RT_DEVICE void attend_last_tile(RowState<Head>& state, const RowKeys& rows, uint32_t queries,
                                      uint32_t tile_keys, uint32_t tile_values, int64_t first_key, int keys,
                                      float scale) {
  const int lane = lane_index();
  constexpr int kRowOctet = Head::kMaxDim / 8 * 128, kKeyOctet = Head::kMaxGranuleBytes / 2;
  const uint32_t row = queries + uint32_t(lane / 8 % 2 * kRowOctet + lane / 16 * 128 + lane % 8 * 16);
  const uint32_t key = tile_keys + uint32_t(lane / 16 * kKeyOctet + lane / 8 % 2 * 128 + lane % 8 * 16);
  float scores[2 * kTileGranules][4] = {};
  for (int step = 0; step < Head::kSteps; ++step) {
    uint32_t q[4], k[4];
    ptx::ldmatrix_x4(q, row + uint32_t(step * 256));
    for (int i = 0; i < kTileGranules; ++i) {
      if (i * kGranuleKeys >= keys) break;
      ptx::ldmatrix_x4(k, key + uint32_t(i * Head::kMaxGranuleBytes + step * 256));
      ptx::mma_m16n8k16(scores[2 * i], q, k[0], k[1]);
      ptx::mma_m16n8k16(scores[2 * i + 1], q, k[2], k[3]);
    }
  }
  uint32_t weights[kTileGranules][4];
  weigh(weights, scores, state, rows, first_key, scale);
  for (int i = 0; i < kTileGranules; ++i) {
    const int left = keys - i * kGranuleKeys;
    if (left > 0)
      add_values<Head>(state.out, weights[i], tile_values + uint32_t(i * Head::kMaxGranuleBytes), left,
                       Head::kMaxDim);
  }
}

// A block: 128 rows (x, the last first) of one KV head (y) of one sequence (z).
template <class Config>
__global__ void __launch_bounds__(Config::kThreads, 1) attention_hopper_kernel(AttentionArgs a) {
  wait_for_kernel_before();
  using Head = typename Config::Head;
  const int kv_head = block_y(), warp = warp_index(), group = warp / 4;
  const int block_row = (grid_x() - 1 - block_x()) * Config::kRows;
  const RowsOfSequence s(a, block_z());
  if (block_row >= s.num_rows) return;
  const int end = block_row + Config::kRows;
  const int64_t keys = s.keys(a, (end < s.num_rows ? end : s.num_rows) - 1);
  const HopperShared<Config> shared;

  if (thread_x() == 0)
    for (int stage = 0; stage < Config::kStages; ++stage) {
      ptx::mbarrier_init(shared.full(stage), 1);
      ptx::mbarrier_init(shared.empty(stage), Config::kThreads / kWarpSize);
    }
  store_queries<Config>(dynamic_shared() + Config::kBarrierBytes + group * Config::kQueryBytes, a, s,
                        block_row + group * Config::kGroupRows, kv_head);
  ptx::fence_proxy_async();
  ptx::fence_mbarrier_init();
  ptx::sync_threads();

  TileLoads<Config> loads{a, s.blocks, kv_head, keys, shared};
  if (warp == 0) {
    loads.look_up(0);
    for (int tile = 0; tile < Config::kAhead; ++tile) loads.load(tile);
  }
  const int first_row = block_row + warp * kWarpRows;
  RowKeys rows;
  rows.set(a, s, first_row);
  RowState<Head> total, split;
  total.clear();
  split.clear();
  int tile = 0, splits = 0;
  for (; int64_t(tile + 1) * kTileKeys <= keys; ++tile) {
    if (warp == 0) loads.load(tile + Config::kAhead);
    ptx::mbarrier_wait(shared.full(tile), shared.parity(tile));
    float scores[2 * kTileGranules][4];
    multiply_keys<Config>(scores, shared.queries(group), shared.keys(tile));
    uint32_t weights[kTileGranules][4];
    weigh(weights, scores, split, rows, int64_t(tile) * kTileKeys, a.scale);
    multiply_values<Config>(split, weights, shared.values(tile));
    if (lane_index() == 0) ptx::mbarrier_arrive(shared.empty(tile));
    if (int64_t(tile + 1) * kTileKeys == Splits::begin(splits + 1)) {
      merge_split(total, split, a.scale);
      split.clear();
      ++splits;
    }
  }
  const int64_t first_key = int64_t(tile) * kTileKeys;
  if (first_key < keys) {
    ptx::mbarrier_wait(shared.full(tile), shared.parity(tile));
    attend_last_tile(split, rows, shared.queries(group) + uint32_t(warp % 4 * kWarpRows * Head::kMaxDim * 2),
                     shared.keys(tile), shared.values(tile), first_key, int(keys - first_key), a.scale);
  }
  merge_split(total, split, a.scale);
  store_rows(a, s, total, first_row, kv_head);
}

}  // namespace llama4rt::cuda
