// The router: logits = h . router, the best K experts of each token, sigmoid, and a stable counting sort of
// picks (token * K + i) by expert.
//
// Logits. Weights are read as the tensor cores want them (weights/layout.h, kCudaTile: 16 experts x 16 columns
// in 512 bytes), but multiplied in fp32, because a rounded activation could change which expert is
// chosen. A lane holds two experts and four columns of each tile; a warp takes a *split* of 320 columns (a
// sixteenth of 5120), so one token occupies all 16 warps of a block.
// Order of additions, which no batch changes: a lane's columns ascending within a split; the four lanes of an
// expert as a butterfly; splits ascending.
//
// Weights of a warp's first tiles (one token: of its whole split) are on their way before the kernel before is done.
//
// Choice. A warp per token, each round the best expert behind the last one chosen: larger logits first, ties
// to the lowest expert, NaN last.
//
// Sort. Blocks count their picks by expert (match_any: no atomics, picks stay in order); the last
// block turns counts into positions; then blocks write their picks there. With few picks one block, the last
// of the logits kernel, does all of it, and nothing else is launched.
#pragma once

#include "cuda/device/exp.cuh"
#include "cuda/device/finish.cuh"
#include "cuda/device/order.cuh"
#include "cuda/device/overlap.cuh"
#include "cuda/ptx/bits.cuh"
#include "cuda/ptx/math.cuh"
#include "cuda/ptx/sync.cuh"
#include "cuda/ptx/warp.cuh"
#include "cuda/simt.h"

namespace llama4rt::cuda {

struct RouteArgs {
  const float* h;               // [T, H], h_stride between rows
  const unsigned char* router;  // [ceil(E/16)][ceil(H/16)][512] bytes
  float* logits;                // [T, E]
  int32_t* expert_ids;          // [T, K]
  float* scores;                // [T, K]
  int32_t* sorted_picks;        // [T * K]
  int32_t* offsets;             // [E + 1]
  int32_t* counts;              // [blocks of the sort][E]; unused when fused
  uint32_t* ticket;             // zero between kernels
  int64_t h_stride;
  int tokens;   // T
  int hidden;   // H
  int experts;  // E
  int top_k;    // K
  bool fused;   // the logits kernel does it all
};

inline constexpr int kRouteSplitColumns = 320;
inline constexpr int kRouteTileColumns = 16;
inline constexpr int kRouteTilesOfSplit = kRouteSplitColumns / kRouteTileColumns;

LLAMA4RT_DEVICE float low_bf16(uint32_t pair) { return ptx::float_from_bits(pair << 16); }
LLAMA4RT_DEVICE float high_bf16(uint32_t pair) { return ptx::float_from_bits(pair & 0xffff0000u); }

// Two neighbouring columns of a row, zeros past the end.  kAligned: both are there and lie on 8 bytes.
struct alignas(8) F32x2 {
  float low, high;
};
template <bool kAligned>
LLAMA4RT_DEVICE F32x2 load2(const float* row, int column, int columns) {
  if constexpr (kAligned) return *reinterpret_cast<const F32x2*>(row + column);
  return {column < columns ? row[column] : 0.0f, column + 1 < columns ? row[column + 1] : 0.0f};
}

// Tiles of the router that a warp multiplies at once: this lane's two experts and four columns of each.
template <int kTilesAtOnce>
struct RouterTiles {
  U32x4 words[kTilesAtOnce];

  // From tile `begin` of the block's 16 experts on, zeros past the last: all on their way before the first is used.
  LLAMA4RT_DEVICE void load(const RouteArgs& a, int begin) {
    const int tiles = (a.hidden + kRouteTileColumns - 1) / kRouteTileColumns;
    const auto* from = reinterpret_cast<const U32x4*>(a.router) + int64_t(block_x()) * tiles * kWarpSize;
    for (int j = 0; j < kTilesAtOnce; ++j)
      words[j] = begin + j < tiles ? from[(begin + j) * kWarpSize + lane_index()] : U32x4{0, 0, 0, 0};
  }
};

// Adds tiles from `begin` on to a split's sums: sums[i][0] is expert lane / 4 of the block's 16 and token i, sums[i][1]
// expert lane / 4 + 8. Of each tile this lane takes columns c, c + 1, c + 8, c + 9 with c = lane % 4 * 2.
template <int kTokens, int kTilesAtOnce, bool kAligned>
LLAMA4RT_DEVICE void multiply_tiles(float (&sums)[kTokens][2], const RouterTiles<kTilesAtOnce>& router,
                                    const RouteArgs& a, int first_token, int begin) {
  for (int j = 0; j < kTilesAtOnce; ++j) {
    if ((begin + j) * kRouteTileColumns >= a.hidden) continue;
    const U32x4 w = router.words[j];
    const int column = (begin + j) * kRouteTileColumns + lane_index() % 4 * 2;
    for (int i = 0; i < kTokens; ++i) {
      const int token = first_token + i < a.tokens ? first_token + i : a.tokens - 1;
      const float* row = a.h + token * a.h_stride;
      const F32x2 x = load2<kAligned>(row, column, a.hidden), y = load2<kAligned>(row, column + 8, a.hidden);
      sums[i][0] = ptx::fma(x.low, low_bf16(w.x), sums[i][0]);
      sums[i][0] = ptx::fma(x.high, high_bf16(w.x), sums[i][0]);
      sums[i][0] = ptx::fma(y.low, low_bf16(w.z), sums[i][0]);
      sums[i][0] = ptx::fma(y.high, high_bf16(w.z), sums[i][0]);
      sums[i][1] = ptx::fma(x.low, low_bf16(w.y), sums[i][1]);
      sums[i][1] = ptx::fma(x.high, high_bf16(w.y), sums[i][1]);
      sums[i][1] = ptx::fma(y.low, low_bf16(w.w), sums[i][1]);
      sums[i][1] = ptx::fma(y.high, high_bf16(w.w), sums[i][1]);
    }
  }
}

// Logits of 16 experts and kTokens tokens.   router: loaded with the first tiles of the warp's first split
template <int kThreads, int kTokens, int kTilesAtOnce, bool kAligned>
LLAMA4RT_DEVICE void write_logits(const RouteArgs& a, RouterTiles<kTilesAtOnce>& router) {
  static_assert(kRouteTilesOfSplit % kTilesAtOnce == 0);
  const int splits = (a.hidden + kRouteSplitColumns - 1) / kRouteSplitColumns;
  const int first_token = block_y() * kTokens;
  auto* parts = reinterpret_cast<float*>(dynamic_shared());  // [splits][kTokens][16]
  for (int split = warp_index(); split < splits; split += kThreads / kWarpSize) {
    float sums[kTokens][2];
    for (int i = 0; i < kTokens; ++i) sums[i][0] = sums[i][1] = 0.0f;
    for (int tile = 0; tile < kRouteTilesOfSplit; tile += kTilesAtOnce) {
      if (tile > 0 || split != warp_index()) router.load(a, split * kRouteTilesOfSplit + tile);
      multiply_tiles<kTokens, kTilesAtOnce, kAligned>(sums, router, a, first_token,
                                                      split * kRouteTilesOfSplit + tile);
    }
    for (int i = 0; i < kTokens; ++i)
      for (int half = 0; half < 2; ++half) {
        float sum = sums[i][half];
        sum += ptx::shuffle_xor(sum, 1);
        sum += ptx::shuffle_xor(sum, 2);
        if (lane_index() % 4 == 0) parts[(split * kTokens + i) * 16 + half * 8 + lane_index() / 4] = sum;
      }
  }
  ptx::sync_threads();
  if (thread_x() < kTokens * 16) {
    const int token = first_token + thread_x() / 16, expert = block_x() * 16 + thread_x() % 16;
    float sum = 0.0f;
    for (int split = 0; split < splits; ++split) sum += parts[split * kTokens * 16 + thread_x()];
    if (token < a.tokens && expert < a.experts) a.logits[int64_t(token) * a.experts + expert] = sum;
  }
}

// The experts of one token, by a warp.
LLAMA4RT_DEVICE void choose_experts(const RouteArgs& a, int token) {
  const float* logits = a.logits + int64_t(token) * a.experts;
  Ranked last{0xffffffffu, -1};  // nothing comes before it
  for (int i = 0; i < a.top_k; ++i) {
    Ranked best;
    for (int e = lane_index(); e < a.experts; e += kWarpSize) {
      const Ranked here{order_key(logits[e]), e};
      if (last.before(here) && here.before(best)) best = here;
    }
    last = warp_best(best);
    if (lane_index() == 0) {
      a.expert_ids[int64_t(token) * a.top_k + i] = last.index;
      a.scores[int64_t(token) * a.top_k + i] = sigmoid(logits[last.index]);
    }
  }
}

// Where a pick of this block stands among those of its expert.
struct PickPlace {
  int pick;
  int expert;  // -1: this thread has no pick
  int before;  // picks of the same expert and warp that come before it
};

// The block's picks [first, first + count), one for each thread. The experts were written by this block; no
// barrier is needed in between. After the next barrier, before[warp][expert] (shared) holds how many picks of
// the expert lower warps have. counts(expert, n) is called once for each expert,
// by some thread, with the number of its picks here.
template <int kThreads, class Counts>
LLAMA4RT_DEVICE PickPlace count_picks(const RouteArgs& a, int first, int count, int* before,
                                      const Counts& counts) {
  constexpr int kWarps = kThreads / kWarpSize;
  for (int i = thread_x(); i < kWarps * a.experts; i += kThreads) before[i] = 0;
  ptx::sync_threads();
  PickPlace place{first + thread_x(), -1, 0};
  if (thread_x() < count) place.expert = a.expert_ids[place.pick];
  const uint32_t same = ptx::match_any(uint32_t(place.expert));
  place.before = ptx::popcount(same & ((1u << lane_index()) - 1u));
  int* of_warp = before + warp_index() * a.experts;
  if (place.expert >= 0 && place.before == 0) of_warp[place.expert] = ptx::popcount(same);
  ptx::sync_threads();
  for (int e = thread_x(); e < a.experts; e += kThreads) {
    int sum = 0;
    for (int w = 0; w < kWarps; ++w) {
      const int here = before[w * a.experts + e];
      before[w * a.experts + e] = sum;
      sum += here;
    }
    counts(e, sum);
  }
  return place;
}

// Sums of what comes before: offsets[e] = totals[0] + ... + totals[e - 1], by one warp. totals: shared [E].
LLAMA4RT_DEVICE void write_offsets(const RouteArgs& a, int* totals) {
  const int per_lane = (a.experts + kWarpSize - 1) / kWarpSize;
  const int begin = lane_index() * per_lane;
  const int end = begin + per_lane < a.experts ? begin + per_lane : a.experts;
  int sum = 0;
  for (int e = begin; e < end; ++e) sum += totals[e];
  int through = sum;  // of this lane and those below
  for (int step = 1; step < kWarpSize; step *= 2) {
    const int below = int(ptx::shuffle(uint32_t(through), (lane_index() - step) & (kWarpSize - 1)));
    if (lane_index() >= step) through += below;
  }
  int offset = through - sum;
  for (int e = begin; e < end; ++e) {
    a.offsets[e] = offset;
    offset += totals[e];
    totals[e] = offset - totals[e];
  }
  if (lane_index() == kWarpSize - 1) a.offsets[a.experts] = through;
}

// grid: (blocks of 16 experts, groups of kTokens tokens).
template <int kThreads, int kTokens, int kTilesAtOnce, bool kAligned>
__global__ void __launch_bounds__(kThreads) route_logits_kernel(RouteArgs a) {
  RouterTiles<kTilesAtOnce> router;
  router.load(a, warp_index() * kRouteTilesOfSplit);  // weights: while the kernel before still runs
  wait_for_kernel_before();
  write_logits<kThreads, kTokens, kTilesAtOnce, kAligned>(a, router);
  if (!a.fused) return;
  if (grid_x() * grid_y() == 1)
    ptx::sync_threads();
  else if (!last_to_arrive(a.ticket, grid_x() * grid_y()))
    return;
  for (int token = warp_index(); token < a.tokens; token += kThreads / kWarpSize) choose_experts(a, token);
  auto* before = reinterpret_cast<int*>(dynamic_shared());  // [warps][E]
  int* totals = before + kThreads / kWarpSize * a.experts;  // [E], then offsets
  const PickPlace place = count_picks<kThreads>(a, 0, a.tokens * a.top_k, before,
                                                [&](int expert, int count) { totals[expert] = count; });
  ptx::sync_threads();
  if (warp_index() == 0) write_offsets(a, totals);
  ptx::sync_threads();
  if (place.expert < 0) return;
  const int of_lower_warps = before[warp_index() * a.experts + place.expert];
  a.sorted_picks[totals[place.expert] + of_lower_warps + place.before] = place.pick;
}

// Block b chooses and counts for tokens [b, b + 1) * (kThreads / K). The last one turns the counts of each
// expert into sums over the blocks before, and writes the offsets.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) route_choose_kernel(RouteArgs a) {
  wait_for_kernel_before();
  const int tokens_per_block = kThreads / a.top_k;
  const int first = block_x() * tokens_per_block;
  const int count = first + tokens_per_block < a.tokens ? tokens_per_block : a.tokens - first;
  for (int i = warp_index(); i < count; i += kThreads / kWarpSize) choose_experts(a, first + i);
  auto* before = reinterpret_cast<int*>(dynamic_shared());
  int* totals = before + kThreads / kWarpSize * a.experts;
  count_picks<kThreads>(a, first * a.top_k, count * a.top_k, before, [&](int expert, int picks) {
    a.counts[int64_t(block_x()) * a.experts + expert] = picks;
  });
  if (!last_to_arrive(a.ticket, grid_x())) return;
  for (int e = thread_x(); e < a.experts; e += kThreads) {
    int sum = 0;
    for (int b = 0; b < grid_x(); ++b) {
      int32_t* here = a.counts + int64_t(b) * a.experts + e;
      const int picks = *here;
      *here = sum;
      sum += picks;
    }
    totals[e] = sum;
  }
  ptx::sync_threads();
  if (warp_index() == 0) write_offsets(a, totals);
}

// The same blocks put their picks in place.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) route_place_kernel(RouteArgs a) {
  wait_for_kernel_before();
  const int tokens_per_block = kThreads / a.top_k;
  const int first = block_x() * tokens_per_block;
  const int count = first + tokens_per_block < a.tokens ? tokens_per_block : a.tokens - first;
  auto* before = reinterpret_cast<int*>(dynamic_shared());
  const PickPlace place = count_picks<kThreads>(a, first * a.top_k, count * a.top_k, before, [](int, int) {});
  ptx::sync_threads();
  if (place.expert < 0) return;
  const int of_lower_warps = before[warp_index() * a.experts + place.expert];
  const int base = a.offsets[place.expert] + a.counts[int64_t(block_x()) * a.experts + place.expert];
  a.sorted_picks[base + of_lower_warps + place.before] = place.pick;
}

}  // namespace llama4rt::cuda
