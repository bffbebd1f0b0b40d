// rotate_heads: rotation of adjacent pairs by the angles of a row within its tile.
#pragma once

#include "cuda/device/overlap.cuh"
#include "cuda/ptx/math.cuh"
#include "cuda/simt.h"

namespace llama4rt::cuda {

struct RotateHeadsArgs {
  float* x;           // [tiles * R, heads * D], x_stride between rows; in place
  const float* rope;  // [R, D / 2, 2] cos and sin
  int64_t x_stride;   // floats
  int pairs;          // of a row: heads * D / 2
  int head_pairs;     // D / 2
  int rows_per_tile;  // R
};

// One block turns one row.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) rotate_heads_kernel(RotateHeadsArgs a) {
  wait_for_kernel_before();
  const int64_t row = block_x();
  float* const x = a.x + row * a.x_stride;
  const float* const angles = a.rope + row % a.rows_per_tile * a.head_pairs * 2;
  for (int i = thread_x(); i < a.pairs; i += kThreads) {
    const float* angle = angles + i % a.head_pairs * 2;
    const float re = x[2 * i], im = x[2 * i + 1];
    x[2 * i] = ptx::fma(re, angle[0], -(im * angle[1]));
    x[2 * i + 1] = ptx::fma(re, angle[1], im * angle[0]);
  }
}

}  // namespace llama4rt::cuda
