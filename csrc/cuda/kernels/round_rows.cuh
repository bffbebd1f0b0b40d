// Rows of x as bf16, once, for the linears that read them many times; for experts in the order of their
// picks, so that the rows of one expert lie together.
#pragma once

#include "cuda/device/group_sums.cuh"
#include "cuda/device/overlap.cuh"
#include "cuda/ptx/math.cuh"
#include "cuda/simt.h"

namespace llama4rt::cuda {

struct RoundRowsArgs {
  uint32_t* out;         // [R, out_pairs] pairs of bf16, zeros from K on
  const float* x;        // [., K], x_stride between rows
  const int32_t* picks;  // [R]: row i is row picks[i] / picks_per_row of x; null: row i
  int64_t x_stride;
  int picks_per_row;
  int k;
  int out_pairs;
  int group_shift;  // of weights with offsets
  int boxes;        // of further columns in a split
};

template <int kThreads>
__global__ void __launch_bounds__(kThreads) round_rows_kernel(RoundRowsArgs a) {
  wait_for_kernel_before();
  const int row = block_x();
  const float* from = a.x + (a.picks ? a.picks[row] / a.picks_per_row : row) * a.x_stride;
  uint32_t* to = a.out + int64_t(row) * a.out_pairs;
  for (int i = thread_x(); i < a.out_pairs; i += kThreads) {
    const float low = 2 * i < a.k ? from[2 * i] : 0.0f;
    const float high = 2 * i + 1 < a.k ? from[2 * i + 1] : 0.0f;
    to[i] = ptx::pack_bf16(low, high);
  }
}

// The same with the sums of weight groups behind each split's columns. A thread takes 8 columns.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) round_and_sum_rows_kernel(RoundRowsArgs a) {
  wait_for_kernel_before();
  constexpr int kChunks = kSplitColumns / 8;
  static_assert(kThreads % kChunks == 0);  // all lanes of a warp take part in sums
  const int row = block_x();
  const float* from = a.x + (a.picks ? a.picks[row] / a.picks_per_row : row) * a.x_stride;
  auto* const to = reinterpret_cast<uint16_t*>(a.out + int64_t(row) * a.out_pairs);
  const int rounded = (a.k + 63) / 64 * 64, splits = (a.k + kSplitColumns - 1) / kSplitColumns;
  for (int i = thread_x(); i < splits * kChunks; i += kThreads) {
    const int split = i / kChunks, column = i % kChunks * 8;
    const int left = rounded - split * kSplitColumns, columns = left < kSplitColumns ? left : kSplitColumns;
    float v[8];
    for (int j = 0; j < 8; ++j) {
      const int k = split * kSplitColumns + column + j;
      v[j] = k < a.k ? from[k] : 0.0f;
    }
    const uint32_t pairs[4] = {ptx::pack_bf16(v[0], v[1]), ptx::pack_bf16(v[2], v[3]),
                               ptx::pack_bf16(v[4], v[5]), ptx::pack_bf16(v[6], v[7])};
    uint16_t* const first = to + split * (kSplitColumns + a.boxes * kBoxColumns);  // of the split
    if (column < columns)
      *reinterpret_cast<U32x4*>(first + column) = {pairs[0], pairs[1], pairs[2], pairs[3]};
    const float sum = group_sum(pairs, a.group_shift);
    if ((column & ((1 << a.group_shift) - 1)) == 0)
      put_group_sum(first + columns, column >> a.group_shift, a.group_shift, a.boxes, sum);
  }
}

struct CombinePicksArgs {
  float* x;        // [T, N], x_stride
  const float* y;  // [T * K, N]: the output of each pick
  int64_t x_stride;
  int top_k;
  int n;
};

// x[t] += y[t * K] + y[t * K + 1] + ..., the picks summed first and in this order.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) combine_picks_kernel(CombinePicksArgs a) {
  wait_for_kernel_before();
  const int token = block_x();
  const float* y = a.y + int64_t(token) * a.top_k * a.n;
  float* x = a.x + token * a.x_stride;
  for (int i = thread_x(); i < a.n; i += kThreads) {
    float sum = y[i];
    for (int s = 1; s < a.top_k; ++s) sum += y[int64_t(s) * a.n + i];
    x[i] += sum;
  }
}

}  // namespace llama4rt::cuda
