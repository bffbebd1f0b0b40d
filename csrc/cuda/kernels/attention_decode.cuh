// Attention of few rows over many keys. The keys of a sequence are cut into splits (attention_splits.h); a block takes
// one split for 16 rows of one KV head. A row is one query head of one token; a token has 5 in Llama 4.
//
//                 keys of a sequence, oldest first             grid x: tile of 16 rows, KV head
//              split 0  split 1  split 2  split 3              grid y: sequence
//             +--------+--------+--------+--------+-- ...      grid z: splits
//   KV head 0 | z = 0  | z = 1  | z = 2  | z = 3  |
//             +--------+--------+--------+--------+-- ...
//
// A split is walked through in rounds of four tiles of 64 keys, by four warps that share the work in two ways, so that
// a round takes little longer than one tile of a warp alone:
//
//                   tile 0   tile 1   tile 2   tile 3
//   scores        | warp 0 | warp 1 | warp 2 | warp 3 |  each its own tile, all dims
//                          maxima of the tiles to all (barrier)
//   weights       | warp 0 | warp 1 | warp 2 | warp 3 |  with the maximum of the keys so far
//                          weights and their sums to all (barrier)
//   dims 0 ..     | warp 0: all four tiles, in order  |
//   values        | warp 1                            |  each a quarter of the dims
//   .. D          | warp 2, warp 3                    |
//
//   a warp's stream of parts of four granules' size (16 keys of a head; 4 KB with bf16 heads of 128):
//
//             | K K K K | V V V V | K K K K | ...    a round: 4 granules of its tile's keys; then for each of the
//                 ^ \_________/                      four tiles its dims of 4 granules of values
//                 |   the next 5 are being copied (cp.async): 20 KB in flight
//                 being multiplied
//
//   registers of a warp:       queries [16][D] bf16; of the split so far maximum, sum, a quarter of out [16][D] fp32
//   shared memory of a block:  4 warps x 6 stages of one part, and what the warps tell each other of a round
//   global memory:             of each split maximum, sum, out (attention_merge.cuh)
//
// Every byte of the cache is read once. No sum is added in another order than by one warp alone (attention_tile.cuh):
// dims are summed up by one warp each, tiles ascending. The last block to store its states (a ticket) merges them,
// splits ascending. The grid has at most 512 blocks along z; where there are more splits, a block takes every n-th.
// Rows beyond 16 take further row tiles, which read the keys again; attention_prefill is for those.
#pragma once

#include "cuda/device/attention_merge.cuh"
#include "cuda/device/attention_tile.cuh"
#include "cuda/device/finish.cuh"
#include "cuda/device/overlap.cuh"
#include "cuda/device/unroll.cuh"
#include "cuda/ptx/cp_async.cuh"
#include "cuda/ptx/memory.cuh"
#include "cuda/ptx/sync.cuh"

namespace llama4rt::cuda {

inline constexpr int kDecodeWarps = 4;  // of a block, and tiles of a round

// What the warps tell each other of a round, in shared memory behind their rings.
struct RoundNotes {
  U32x4 weights[kDecodeWarps][kTileGranules][kWarpSize];  // of each tile, as left operands
  float sums[kDecodeWarps][2][kWarpSize];                 // of them, of each lane's rows and keys
  float maxima[kDecodeWarps][kWarpRows];
};

template <class HeadType>
struct AttentionDecodeConfig {
  using Head = HeadType;
  static constexpr int kWarps = kDecodeWarps;
  static constexpr int kThreads = kWarps * kWarpSize;
  // The dims whose values a warp sums up.
  using Slice = HeadConfig<typename Head::Element, Head::kMaxDim / kWarps, Head::kExact>;
  static LLAMA4RT_DEVICE int slice_begin() { return warp_index() * Slice::kMaxDim; }
  static LLAMA4RT_DEVICE int slice_dims(int head_dim) {
    if (Head::kExact) return Slice::kMaxDim;
    const int left = head_dim - slice_begin();
    return left < 0 ? 0 : left < Slice::kMaxDim ? left : Slice::kMaxDim;
  }
  static constexpr int kRoundGranules = kWarps * kTileGranules;
  static constexpr int kRoundParts = kTileGranules + kWarps;  // of keys, of values
  static constexpr int kStages = 6;                           // parts
  static constexpr int kPartBytes = Head::kMaxGranuleBytes;
  static constexpr int kRingBytes = kStages * kPartBytes;  // of a warp
  static constexpr int kSharedBytes = kWarps * kRingBytes + int(sizeof(RoundNotes));
  static_assert(kTileGranules * Slice::kMaxGranuleBytes == kPartBytes);
  static_assert(kMergeBytes <= kWarps * kRingBytes);
};

// The parts of one split, as one warp reads them.
template <class Config>
struct PartStream {
  using Head = typename Config::Head;
  using Storage = typename Head::Element::Storage;
  const AttentionArgs& a;
  const int32_t* blocks;
  int kv_head;
  uint32_t ring;          // shared address of this warp's
  int to_read = 0;        // the next part's place in it, in bytes
  int to_load = 0;        // the same, of the next part to be loaded
  int round = 0;          // of the split, that is being read
  int first_granule = 0;  // of the split
  int granules = 0;       // of the split
  // Lane i: the block of granule i of the 32 that are being loaded, and where it begins in there.
  uint32_t window[2] = {};

  LLAMA4RT_DEVICE static int after(int place) {
    return place + Config::kPartBytes == Config::kRingBytes ? 0 : place + Config::kPartBytes;
  }
  // Parts behind the end of the split before hold nothing, so their places are free; that of the last part that was
  // read is none of these.
  LLAMA4RT_DEVICE void open(int split, int64_t keys) {
    const int64_t begin = Splits::begin(split), end = Splits::end(split, keys);
    first_granule = int(begin / kGranuleKeys);
    granules = int((end - begin + kGranuleKeys - 1) / kGranuleKeys);
    round = 0;
    to_load = to_read;
    LLAMA4RT_UNROLL
    for (int n = 0; n < Config::kStages - 1; ++n) load(n);
  }
  // Waits for part n of the round (all lanes' copies) and starts copying the part that takes the place of n - 1.
  LLAMA4RT_DEVICE uint32_t arrive(int n) {
    ptx::copy_wait<Config::kStages - 2>();
    ptx::sync_warp(0xffffffffu);
    load(n + Config::kStages - 1);
    const uint32_t here = ring + uint32_t(to_read);
    to_read = after(to_read);
    if (n + 1 == Config::kRoundParts) ++round;
    return here;
  }
  LLAMA4RT_DEVICE bool has(int granule) const { return granule < granules; }

 private:
  // Part n, counted from the first one of the round that is being read; n is known when it is compiled. Past the end
  // only the group of copies is counted.
  LLAMA4RT_DEVICE void load(int n) {
    const int of_round = n % Config::kRoundParts, in_round = round + n / Config::kRoundParts,
              first = in_round * Config::kRoundGranules;
    if (of_round == 0 && in_round % 2 == 0) look_up(first);
    const uint32_t to = ring + uint32_t(to_load);
    if (of_round < kTileGranules) {
      const int granule = first + warp_index() * kTileGranules + of_round;
      if (granule < granules) load_keys(to, granule);
    } else {
      const int in_tile = first + (of_round - kTileGranules) * kTileGranules;
      for (int i = 0; i < kTileGranules; ++i)
        if (in_tile + i < granules)
          load_values(to + uint32_t(i * Config::Slice::kMaxGranuleBytes), in_tile + i);
    }
    ptx::copy_commit();
    to_load = after(to_load);
  }
  static_assert(2 * Config::kRoundGranules == kWarpSize);
  LLAMA4RT_DEVICE void look_up(int first) {
    const int granule = first + lane_index(), per_block = a.kv.block_size / kGranuleKeys;
    if (granule >= granules) return;
    window[0] = uint32_t(blocks[(first_granule + granule) / per_block]);
    window[1] = uint32_t((first_granule + granule) % per_block * kGranuleKeys * Head::dim(a.kv.head_dim));
  }
  LLAMA4RT_DEVICE const unsigned char* place(const void* side, int granule) const {
    const uint32_t block = ptx::shuffle(window[0], granule % kWarpSize),
                   inside = ptx::shuffle(window[1], granule % kWarpSize);
    return reinterpret_cast<const unsigned char*>(static_cast<const Storage*>(side) +
                                                  head_of_block(a.kv, int64_t(block), kv_head) + inside);
  }
  LLAMA4RT_DEVICE void load_keys(uint32_t to, int granule) const {
    const unsigned char* const from = place(a.kv.k, granule);
    for (int i = lane_index() * 16; i < Head::granule_bytes(a.kv.head_dim); i += kWarpSize * 16)
      ptx::copy_async_16(to + uint32_t(i), from + i, 16);
  }
  // A dim of 8 keys (fp8: of 16) is 16 bytes.
  LLAMA4RT_DEVICE void load_values(uint32_t to, int granule) const {
    static_assert(Config::Slice::kMaxDim <= kWarpSize);
    const int dims = Config::slice_dims(a.kv.head_dim), lane = lane_index();
    const unsigned char* const from = place(a.kv.v, granule) + (Config::slice_begin() + lane) * 16;
    if (lane < dims)
      for (int i = 0; i < int(sizeof(Storage)); ++i)
        ptx::copy_async_16(to + uint32_t((i * dims + lane) * 16), from + i * Head::dim(a.kv.head_dim) * 16,
                           16);
  }
};

// The rows' state after some keys of a split, in each warp: sums are the lane's own (row_sum), and warp 0 has them.
template <class Config>
using SliceState = RowState<typename Config::Slice>;

// A round: the keys from `first` on, `left` of which are in the split.
template <class Config>
LLAMA4RT_DEVICE void attend_round(SliceState<Config>& state, const QueryRows<typename Config::Head>& q,
                                  PartStream<Config>& stream, RoundNotes& notes, int64_t first,
                                  int64_t left) {
  using Slice = typename Config::Slice;
  const AttentionArgs& a = stream.a;
  const int lane = lane_index(), warp = warp_index(), g = lane / 4;
  float scores[2 * kTileGranules][4] = {};
  const int granule = stream.round * Config::kRoundGranules + warp * kTileGranules;
  LLAMA4RT_UNROLL
  for (int i = 0; i < kTileGranules; ++i) {
    const uint32_t keys = stream.arrive(i);
    if (stream.has(granule + i)) add_scores(scores[2 * i], scores[2 * i + 1], q, keys, a.kv.head_dim);
  }
  for (int half = 0; half < 2; ++half) {
    const float top = top_score(scores, q, half, first + warp * kTileKeys, minus_infinity());
    if (lane % 4 == 0) notes.maxima[warp][g + 8 * half] = top;
  }
  ptx::sync_threads();
  float factors[Config::kWarps][2];  // for what comes before each tile
  float through[2] = {};             // the maxima with this warp's tile
  LLAMA4RT_UNROLL
  for (int tile = 0; tile < Config::kWarps; ++tile)
    for (int half = 0; half < 2; ++half) {
      const float top = notes.maxima[tile][g + 8 * half], before = state.maximum[half];
      if (top > before) state.maximum[half] = top;
      factors[tile][half] = Exponent(a.scale, state.maximum[half]).factor(before);
      if (tile == warp) through[half] = state.maximum[half];
    }
  uint32_t weights[kTileGranules][4];
  for (int half = 0; half < 2; ++half)
    notes.sums[warp][half][lane] = weigh_row(weights, scores, half, Exponent(a.scale, through[half]));
  for (int i = 0; i < kTileGranules; ++i)
    notes.weights[warp][i][lane] = {weights[i][0], weights[i][1], weights[i][2], weights[i][3]};
  ptx::sync_threads();
  LLAMA4RT_UNROLL
  for (int tile = 0; tile < Config::kWarps; ++tile) {
    const uint32_t values = stream.arrive(kTileGranules + tile);
    if (tile * kTileKeys >= left) continue;
    if (warp == 0)
      for (int half = 0; half < 2; ++half)
        state.sum[half] = ptx::fma(state.sum[half], factors[tile][half], notes.sums[tile][half][lane]);
    rescale(state.out, factors[tile]);
    for (int i = 0; i < kTileGranules; ++i) {
      const int keys = int(left) - (tile * kTileGranules + i) * kGranuleKeys;
      if (keys <= 0) break;
      const U32x4 of_granule = notes.weights[tile][i][lane];
      const uint32_t operand[4] = {of_granule.x, of_granule.y, of_granule.z, of_granule.w};
      add_values<Slice>(state.out, operand, values + uint32_t(i * Slice::kMaxGranuleBytes), keys,
                        Config::slice_dims(a.kv.head_dim));
    }
  }
}

struct alignas(8) TwoDims {
  float first, second;
};

// Puts a split's result where the block that merges looks for it.
template <class Config>
LLAMA4RT_DEVICE void store_state(const SplitStates& states, int split, const SliceState<Config>& state,
                                 int rows) {
  using Slice = typename Config::Slice;
  const int g = lane_index() / 4, t = lane_index() % 4;
  for (int half = 0; half < 2; ++half) {
    const float sum = row_sum(state.sum[half]);
    const int row = g + 8 * half;
    if (row >= rows) continue;
    if (warp_index() == 0 && t == 0) states.end(split, row) = {state.maximum[half], sum};
    float* const to = states.out(split, row) + Config::slice_begin() + 2 * t;
    for (int j = 0; j < Slice::kOctets; ++j) {
      if (!Slice::has(8 * j, Config::slice_dims(states.dim))) break;
      *reinterpret_cast<TwoDims*>(to + 8 * j) = {state.out[j][2 * half], state.out[j][2 * half + 1]};
    }
  }
}

// A block: 16 rows (x: tile and KV head) of one sequence (y), a split (z).
template <class Config>
__global__ void __launch_bounds__(Config::kThreads, 2) attention_decode_kernel(AttentionArgs a) {
  wait_for_kernel_before();
  using Head = typename Config::Head;
  const int kv_head = block_x() % a.kv.num_heads, first_row = block_x() / a.kv.num_heads * kWarpRows;
  const RowsOfSequence s(a, block_y());
  if (first_row >= s.num_rows) return;
  const int rows = s.num_rows - first_row < kWarpRows ? s.num_rows - first_row : kWarpRows;
  const int64_t keys = s.keys(a, first_row + rows - 1);
  const int splits = Splits::count(keys);
  if (block_z() >= splits) return;
  const SplitStates states(a, Head::dim(a.kv.head_dim));
  unsigned char* const shared = dynamic_shared();
  auto& notes = *reinterpret_cast<RoundNotes*>(shared + Config::kWarps * Config::kRingBytes);

  PartStream<Config> stream{a, s.blocks, kv_head,
                            ptx::shared_address(shared) + uint32_t(warp_index() * Config::kRingBytes)};
  for (int split = block_z(); split < splits; split += grid_z()) {
    constexpr int kRoundKeys = Config::kRoundGranules * kGranuleKeys;
    const int64_t begin = Splits::begin(split), end = Splits::end(split, keys);
    stream.open(split, keys);
    QueryRows<Head> q;
    q.load(a, s, first_row, kv_head);
    SliceState<Config> state;
    state.clear();
    for (int64_t first = begin; first < end; first += kRoundKeys)
      attend_round(state, q, stream, notes, first, end - first);
    store_state<Config>(states, split, state, rows);
  }

  const int blocks = splits < grid_z() ? splits : grid_z();
  uint32_t* const ticket = a.tickets + int64_t(block_y()) * grid_x() + block_x();
  if (blocks == 1)
    ptx::sync_threads();
  else if (!last_to_arrive(ticket, blocks))
    return;
  merge_splits<Head, Config::kWarps>(
      states, splits, rows, a.scale, shared, [&](int row, int d, const F32x4& out) {
        const int r = first_row + row;
        float* const to = a.out + (s.first_row + r / a.group) * a.out_stride +
                          int64_t(kv_head * a.group + r % a.group) * a.q_dim + d;
        for (int i = 0; i < 4; ++i) to[i] = out.v[i];
      });
}

}  // namespace llama4rt::cuda
