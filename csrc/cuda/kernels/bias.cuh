// add_bias and gelu: element by element, in place.
#pragma once

#include "cuda/device/exp.cuh"
#include "cuda/device/overlap.cuh"
#include "cuda/device/vec.cuh"
#include "cuda/simt.h"

namespace llama4rt::cuda {

struct BiasArgs {
  float* x;           // [T, dim], x_stride between rows
  const float* bias;  // [dim], or null: none
  int64_t x_stride;
  int dim;
};

// Block (t, p) does part p of row t: x += bias, then with kGelu x = gelu(x).
template <int kThreads, bool kGelu, bool kAligned>
__global__ void __launch_bounds__(kThreads) bias_kernel(BiasArgs a) {
  wait_for_kernel_before();
  const int column = (block_y() * kThreads + thread_x()) * 4;
  if (column >= a.dim) return;
  float* row = a.x + int64_t(block_x()) * a.x_stride;
  F32x4 value = load4<kAligned>(row, column, a.dim);
  if (a.bias) {
    const F32x4 bias = load4<kAligned>(a.bias, column, a.dim);
    for (int j = 0; j < 4; ++j) value.v[j] += bias.v[j];
  }
  if constexpr (kGelu) {
    for (int j = 0; j < 4; ++j) value.v[j] = gelu_exact(value.v[j]);
  }
  store4<kAligned>(row, column, a.dim, value);
}

}  // namespace llama4rt::cuda
