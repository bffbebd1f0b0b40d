// layernorm of rows.
#pragma once

#include "cuda/device/overlap.cuh"
#include "cuda/device/reduce.cuh"
#include "cuda/device/vec.cuh"
#include "cuda/ptx/math.cuh"
#include "cuda/simt.h"

namespace llama4rt::cuda {

struct LayerNormArgs {
  float* out;           // [T, dim], out_stride between rows; may be x
  const float* x;       // [T, dim], x_stride
  const float* weight;  // [dim]
  const float* bias;    // [dim]
  int64_t out_stride;   // floats
  int64_t x_stride;
  int dim;
  float eps;
};

// One block normalises one token. The mean comes first and deviations from it are squared: no cancellation
// where the mean is large. The second and third reading of the row come from the first cache.
template <int kThreads, bool kAligned>
__global__ void __launch_bounds__(kThreads) layernorm_kernel(LayerNormArgs a) {
  wait_for_kernel_before();
  const int64_t token = block_x();
  const float* row = a.x + token * a.x_stride;
  float sum = 0.0f;
  for (int i = 4 * thread_x(); i < a.dim; i += 4 * kThreads) {
    const F32x4 x = load4<kAligned>(row, i, a.dim);
    for (int j = 0; j < 4; ++j) sum += x.v[j];
  }
  const float mean = block_sum<kThreads>(sum) / float(a.dim);
  float squares = 0.0f;
  for (int i = 4 * thread_x(); i < a.dim; i += 4 * kThreads) {
    const F32x4 x = load4<kAligned>(row, i, a.dim);
    for (int j = 0; j < 4; ++j) {
      const float deviation = i + j < a.dim ? x.v[j] - mean : 0.0f;
      squares = ptx::fma(deviation, deviation, squares);
    }
  }
  ptx::sync_threads();  // the sums of warps are used again
  const float scale = ptx::rsqrt(block_sum<kThreads>(squares) / float(a.dim) + a.eps);
  float* out = a.out + token * a.out_stride;
  for (int i = 4 * thread_x(); i < a.dim; i += 4 * kThreads) {
    F32x4 x = load4<kAligned>(row, i, a.dim);
    const F32x4 weight = load4<kAligned>(a.weight, i, a.dim), bias = load4<kAligned>(a.bias, i, a.dim);
    for (int j = 0; j < 4; ++j) x.v[j] = ptx::fma((x.v[j] - mean) * scale, weight.v[j], bias.v[j]);
    store4<kAligned>(out, i, a.dim, x);
  }
}

}  // namespace llama4rt::cuda
