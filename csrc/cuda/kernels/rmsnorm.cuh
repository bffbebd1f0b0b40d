// rmsnorm, with an optional residual added first.
#pragma once

#include "cuda/device/reduce.cuh"
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
template <int kThreads>
__global__ void __launch_bounds__(kThreads) rmsnorm_kernel(RmsNormArgs a) {
  const int64_t token = block_x();
  const float* row = a.x + token * a.x_stride;
  float sum = 0.0f;
  if (a.residual) {
    float* residual = a.residual + token * a.residual_stride;
    for (int i = thread_x(); i < a.dim; i += kThreads) {
      const float value = residual[i] + row[i];
      residual[i] = value;  // each thread reads back only what it wrote
      sum = ptx::fma(value, value, sum);
    }
    row = residual;
  } else {
    for (int i = thread_x(); i < a.dim; i += kThreads) sum = ptx::fma(row[i], row[i], sum);
  }
  const float scale = ptx::rsqrt(block_sum<kThreads>(sum) / float(a.dim) + a.eps);
  float* out = a.out + token * a.out_stride;
  for (int i = thread_x(); i < a.dim; i += kThreads) out[i] = row[i] * scale * a.weight[i];
}

}  // namespace llama4rt::cuda
