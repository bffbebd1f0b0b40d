// gather_rows and scatter_rows: rows of one matrix to rows of another.
#pragma once

#include "cuda/device/overlap.cuh"
#include "cuda/device/vec.cuh"
#include "cuda/simt.h"

namespace llama4rt::cuda {

struct CopyRowsArgs {
  float* out;           // [_, dim], out_stride between rows
  const float* x;       // [_, dim], x_stride
  const int32_t* rows;  // [R]
  int64_t out_stride;
  int64_t x_stride;
  int dim;
};

// Block (i, p) copies part p of row i: out[i] = x[rows[i]], or with kScatter out[rows[i]] = x[i].
template <int kThreads, bool kScatter, bool kAligned>
__global__ void __launch_bounds__(kThreads) copy_rows_kernel(CopyRowsArgs a) {
  wait_for_kernel_before();
  const int64_t i = block_x(), row = a.rows[i];
  const int column = (block_y() * kThreads + thread_x()) * 4;
  if (column >= a.dim) return;
  const float* from = a.x + (kScatter ? i : row) * a.x_stride;
  float* to = a.out + (kScatter ? row : i) * a.out_stride;
  store4<kAligned>(to, column, a.dim, load4<kAligned>(from, column, a.dim));
}

}  // namespace llama4rt::cuda
