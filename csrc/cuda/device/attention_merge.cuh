// The end of attention_decode: what its splits have left in global memory becomes the rows' output.
//
//   outs  [places][splits][rows][D] fp32             a place: sequence, tile of rows, KV head
//   ends  [places][splits][rows] of maximum and sum
//
// Splits are added ascending, as merge_split (attention_tile.cuh) adds them: the same bits. Of the splits before, a
// factor needs only the running maximum. So a warp scans the maxima of 32 splits of a row at a time and leaves
// their factors in shared memory; then each thread adds four dims of a row, with eight splits on their way at once.
#pragma once

#include "cuda/device/attention_tile.cuh"
#include "cuda/device/unroll.cuh"
#include "cuda/device/vec.cuh"
#include "cuda/ptx/sync.cuh"
#include "cuda/ptx/warp.cuh"

namespace llama4rt::cuda {

struct alignas(8) SplitEnd {
  float maximum, sum;
};
// Where the splits of this block's place are.
struct SplitStates {
  float* outs;
  SplitEnd* ends;
  int rows;  // that there is room for
  int dim;

  LLAMA4RT_DEVICE SplitStates(const AttentionArgs& a, int head_dim) : rows(a.state_rows), dim(head_dim) {
    const int64_t place = int64_t(block_y()) * grid_x() + block_x(), places = int64_t(grid_x()) * grid_y(),
                  rows_of_place = int64_t(a.max_splits) * rows;
    outs = a.states + place * rows_of_place * dim;
    ends = reinterpret_cast<SplitEnd*>(a.states + places * rows_of_place * dim) + place * rows_of_place;
  }
  LLAMA4RT_DEVICE float* out(int split, int row) const { return outs + (int64_t(split) * rows + row) * dim; }
  LLAMA4RT_DEVICE SplitEnd& end(int split, int row) const { return ends[int64_t(split) * rows + row]; }
};

// What a split needs to be added: factors of the sums before and of its own, its sum of weights; and the maximum of
// what comes before and itself.
struct alignas(16) SplitFactors {
  float before, own, sum, maximum;
};
inline constexpr int kMergedSplits = kWarpSize;  // at a time
// Two of them, so that one barrier for each 32 splits is enough.
inline constexpr int kMergeBytes = 2 * kWarpRows * kMergedSplits * int(sizeof(SplitFactors));

// Factors of the splits from `first` on, for this warp's rows.   last: of the splits before these, or null
template <int kWarps>
LLAMA4RT_DEVICE void scan_splits(SplitFactors* factors, const SplitFactors* last, const SplitStates& states,
                                 int first, int splits, int rows, float scale) {
  for (int row = warp_index(); row < rows; row += kWarps) {
    const int split = first + lane_index(), place = row * kMergedSplits + lane_index();
    const SplitEnd end = split < splits ? states.end(split, row) : SplitEnd{minus_infinity(), 0.0f};
    const float carried = last ? last[row * kMergedSplits + kMergedSplits - 1].maximum : minus_infinity();
    float through = end.maximum;
    for (int step = 1; step < kWarpSize; step *= 2) {
      const float below = ptx::shuffle_up(through, step);
      if (lane_index() >= step && below > through) through = below;
    }
    if (carried > through) through = carried;
    const float below = ptx::shuffle_up(through, 1);
    const Exponent exponent(scale, through);
    factors[place] = {exponent.factor(lane_index() == 0 ? carried : below), exponent.factor(end.maximum),
                      end.sum, through};
  }
}

// Calls store(row, first of four dims, averages).   shared: kMergeBytes that no thread uses any more. All threads call
// it, after a barrier behind the stores of the states.
template <class Head, int kWarps, class Store>
LLAMA4RT_DEVICE void merge_splits(const SplitStates& states, int splits, int rows, float scale,
                                  unsigned char* shared, const Store& store) {
  constexpr int kThreads = kWarps * kWarpSize, kItems = kWarpRows * Head::kMaxDim / 4 / kThreads, kAtOnce = 8;
  const int fours = Head::dim(states.dim) / 4;
  float sums[kItems];
  F32x4 outs[kItems];
  for (int i = 0; i < kItems; ++i) {
    sums[i] = 0.0f;
    for (float& x : outs[i].v) x = 0.0f;
  }
  for (int first = 0; first < splits; first += kMergedSplits) {
    const int turn = first / kMergedSplits % 2;
    auto* const both = reinterpret_cast<SplitFactors*>(shared);
    SplitFactors* const factors = both + turn * (kWarpRows * kMergedSplits);
    scan_splits<kWarps>(factors, first > 0 ? both + (1 - turn) * (kWarpRows * kMergedSplits) : nullptr,
                        states, first, splits, rows, scale);
    ptx::sync_threads();
    const int end = splits - first < kMergedSplits ? splits - first : kMergedSplits;
    LLAMA4RT_UNROLL
    for (int i = 0; i < kItems; ++i) {
      const int row = (thread_x() + i * kThreads) / fours, d = (thread_x() + i * kThreads) % fours * 4;
      if (row >= rows) continue;
      LLAMA4RT_ROLL
      for (int split = 0; split < end; split += kAtOnce) {
        F32x4 out[kAtOnce];  // all on their way before the first is used
        for (int j = 0; j < kAtOnce; ++j)
          if (split + j < end)
            out[j] = *reinterpret_cast<const F32x4*>(states.out(first + split + j, row) + d);
        for (int j = 0; j < kAtOnce; ++j) {
          if (split + j >= end) continue;
          const SplitFactors f = factors[row * kMergedSplits + split + j];
          sums[i] = ptx::fma(sums[i], f.before, f.sum * f.own);
          for (int k = 0; k < 4; ++k) outs[i].v[k] = ptx::fma(outs[i].v[k], f.before, out[j].v[k] * f.own);
        }
      }
    }
  }
  LLAMA4RT_UNROLL
  for (int i = 0; i < kItems; ++i) {
    const int row = (thread_x() + i * kThreads) / fours, d = (thread_x() + i * kThreads) % fours * 4;
    if (row >= rows) continue;
    const float inverse = reciprocal(sums[i]);
    for (float& x : outs[i].v) x *= inverse;
    store(row, d, outs[i]);
  }
}

}  // namespace llama4rt::cuda
