#include "base/checked_math.h"
#include "cuda/kernels/linear_rows.h"
#include "cuda/kernels/round_rows.cuh"
#include "cuda/launch.h"

namespace llama4rt::cuda {
namespace {
constexpr int kThreads = 256;
}

void run_round_rows(Stream& stream, void* out, Tensor x, const Weight& w, const int32_t* picks,
                    int64_t num_picks, int64_t picks_per_row) {
  const int64_t rows = picks ? num_picks : x.size(0);
  const RoundRowsArgs args{.out = static_cast<uint32_t*>(out),
                           .x = x.ptr<const float>(),
                           .picks = picks,
                           .x_stride = x.stride0,
                           .picks_per_row = int(picks_per_row),
                           .k = int(x.size(1)),
                           .out_pairs = int(rounded_stride(w) / 2),
                           .group_shift = general_args(w).group_shift,
                           .boxes = group_boxes(w)};
  launch("round_rows", w.offsets ? round_and_sum_rows_kernel<kThreads> : round_rows_kernel<kThreads>,
         {.grid_x = int(rows), .threads = kThreads}, stream, args);
}

void run_combine_picks(Stream& stream, Tensor x, const float* y, int64_t top_k) {
  const CombinePicksArgs args{
      .x = x.ptr<float>(), .y = y, .x_stride = x.stride0, .top_k = int(top_k), .n = int(x.size(1))};
  launch("combine_picks", combine_picks_kernel<kThreads>, {.grid_x = int(x.size(0)), .threads = kThreads},
         stream, args);
}

}  // namespace llama4rt::cuda
