// rmsnorm, with an optional residual added first.
#pragma once

#include "cuda/device/overlap.cuh"
#include "cuda/device/reduce.cuh"
#include "cuda/device/vec.cuh"
#include "cuda/ptx/math.cuh"
#include "cuda/simt.h"

namespace llama4rt::cuda {

struct RmsNormArgs {
  float* out;           // [T, dim], out_stride between rows; may be x
  const float* x;       // [T, dim], x_stride
  const float* weight;  // [dim]
  float* residual;      // [T, dim], residual_stride, or null: residual += x, and the sum is normalised
  int64_t out_stride;   // floats
  int64_t x_stride;
  int64_t residual_stride;
  int dim;
  float eps;
};

// One block normalises one token. The row is read twice; the second time it comes from the first cache.
template <int kThreads, bool kAligned>
__global__ void __launch_bounds__(kThreads) rmsnorm_kernel(RmsNormArgs a) {
  wait_for_kernel_before();
  const int64_t token = block_x();
  const float* row = a.x + token * a.x_stride;
  float* residual = a.residual ? a.residual + token * a.residual_stride : nullptr;
  float sum = 0.0f;
  for (int i = 4 * thread_x(); i < a.dim; i += 4 * kThreads) {
    F32x4 x = load4<kAligned>(row, i, a.dim);
    if (residual) {
      const F32x4 before = load4<kAligned>(residual, i, a.dim);
      for (int j = 0; j < 4; ++j) x.v[j] += before.v[j];
      store4<kAligned>(residual, i, a.dim, x);  // each thread reads back only what it wrote
    }
    for (int j = 0; j < 4; ++j) sum = ptx::fma(x.v[j], x.v[j], sum);
  }
  if (residual) row = residual;
  const float scale = ptx::rsqrt(block_sum<kThreads>(sum) / float(a.dim) + a.eps);
  float* out = a.out + token * a.out_stride;
  for (int i = 4 * thread_x(); i < a.dim; i += 4 * kThreads) {
    F32x4 x = load4<kAligned>(row, i, a.dim);
    const F32x4 weight = load4<kAligned>(a.weight, i, a.dim);
    for (int j = 0; j < 4; ++j) x.v[j] = x.v[j] * scale * weight.v[j];
    store4<kAligned>(out, i, a.dim, x);
  }
}

}  // namespace llama4rt::cuda
