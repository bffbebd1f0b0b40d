#include "cuda/kernels/layernorm.cuh"
#include "cuda/kernels/rows.h"
#include "cuda/launch.h"
#include "cuda/launch_rows.h"

namespace llama4rt::cuda {

void run_layernorm(Stream& stream, Tensor out, Tensor x, Tensor weight, Tensor bias, float eps) {
  const LayerNormArgs args{.out = out.ptr<float>(),
                           .x = x.ptr<const float>(),
                           .weight = weight.ptr<const float>(),
                           .bias = bias.ptr<const float>(),
                           .out_stride = out.stride0,
                           .x_stride = x.stride0,
                           .dim = int(x.size(1)),
                           .eps = eps};
  constexpr int kThreads = 256;
  const bool aligned = rows_aligned(out) && rows_aligned(x) && rows_aligned(weight) && rows_aligned(bias);
  launch("layernorm", aligned ? layernorm_kernel<kThreads, true> : layernorm_kernel<kThreads, false>,
         {.grid_x = int(x.size(0)), .threads = kThreads}, stream, args);
}

}  // namespace llama4rt::cuda
