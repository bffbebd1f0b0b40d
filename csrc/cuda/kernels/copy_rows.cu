#include "cuda/kernels/copy_rows.cuh"
#include "cuda/kernels/rows.h"
#include "cuda/launch.h"
#include "cuda/launch_rows.h"

namespace llama4rt::cuda {
namespace {

constexpr int kThreads = 256;

template <bool kScatter>
void run(const char* name, Stream& stream, Tensor out, Tensor x, Tensor rows) {
  const CopyRowsArgs args{.out = out.ptr<float>(),
                          .x = x.ptr<const float>(),
                          .rows = rows.ptr<const int32_t>(),
                          .out_stride = out.stride0,
                          .x_stride = x.stride0,
                          .dim = int(x.size(1))};
  const bool aligned = rows_aligned(out) && rows_aligned(x);
  launch(name,
         aligned ? copy_rows_kernel<kThreads, kScatter, true> : copy_rows_kernel<kThreads, kScatter, false>,
         row_pieces(rows.size(0), x.size(1), kThreads * 4, kThreads), stream, args);
}

}  // namespace

void run_gather_rows(Stream& stream, Tensor out, Tensor x, Tensor rows) {
  run<false>("gather_rows", stream, out, x, rows);
}
void run_scatter_rows(Stream& stream, Tensor x, Tensor rows, Tensor src) {
  run<true>("scatter_rows", stream, x, src, rows);
}

}  // namespace llama4rt::cuda
