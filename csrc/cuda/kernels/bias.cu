#include "cuda/kernels/bias.cuh"
#include "cuda/kernels/rows.h"
#include "cuda/launch.h"
#include "cuda/launch_rows.h"

namespace llama4rt::cuda {
namespace {

constexpr int kThreads = 256;

template <bool kGelu>
void run(const char* name, Stream& stream, Tensor x, Tensor bias) {
  const BiasArgs args{.x = x.ptr<float>(),
                      .bias = bias ? bias.ptr<const float>() : nullptr,
                      .x_stride = x.stride0,
                      .dim = int(x.size(1))};
  const bool aligned = rows_aligned(x) && rows_aligned(bias);
  launch(name, aligned ? bias_kernel<kThreads, kGelu, true> : bias_kernel<kThreads, kGelu, false>,
         row_pieces(x.size(0), x.size(1), kThreads * 4, kThreads), stream, args);
}

}  // namespace

void run_add_bias(Stream& stream, Tensor x, Tensor bias) { run<false>("add_bias", stream, x, bias); }
void run_gelu(Stream& stream, Tensor x, Tensor bias) { run<true>("gelu", stream, x, bias); }

}  // namespace llama4rt::cuda
