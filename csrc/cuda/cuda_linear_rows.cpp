// CudaOps: products with many rows of x, of one matrix and of routed experts. Which kernel takes a
// product depends on the number of rows; a row's bits do not.
#include "cuda/cuda_device.h"
#include "cuda/cuda_ops.h"
#include "cuda/kernels/linear_rows.h"

namespace llama4rt {
bool CudaOps::multiply_rows(cuda::RowsProduct product, Tensor x, const Weight& w, int64_t picks_per_row,
                            size_t y_bytes) {
  if (!cuda::many_rows(product.rows, w)) return false;
  const cuda::DeviceInfo& info = device_.info();
  const int64_t most_medium =
      product.offsets ? cuda::kMostMediumRowsOfExpert * w.num_experts : cuda::kMostMediumRows;
  const bool prefill = product.rows > most_medium && device_.options().prefill != PrefillKernels::kMedium &&
                       cuda::LinearPrefill::supports(w, info);
  const int processors = info.multiprocessors;
  const cuda::RowsMemory bytes(y_bytes, w, product.rows,
                               prefill ? 0 : cuda::LinearMedium::scratch_bytes(w, product.rows, processors));
  auto* const y = static_cast<char*>(scratch(bytes.total()));
  char* const x_rounded = y + bytes.y;
  if (y_bytes > 0) product.out.data = y;
  product.x = x_rounded;
  cuda::run_round_rows(stream(), x_rounded, x, w, product.picks, product.rows, picks_per_row);
  if (prefill) {
    cuda::LinearPrefill::run(stream(), product, w, processors);
  } else {
    cuda::LinearMedium::run(stream(), product, w, processors, x_rounded + bytes.x,
                            tickets(cuda::LinearMedium::ticket_bytes(w, product.rows, processors)));
  }
  return true;
}

bool CudaOps::experts_gate_up_rows(Tensor a, Tensor h, const Weight& gate_up, const Routing& routing) {
  return multiply_rows({.out = a,
                        .rows = routing.sorted_picks.size(0),
                        .finish = Finish::kSwiGlu,
                        .offsets = routing.offsets.ptr<const int32_t>(),
                        .picks = routing.sorted_picks.ptr<const int32_t>(),
                        .scores = routing.scores.ptr<const float>()},
                       h, gate_up, routing.expert_ids.size(1));
}

bool CudaOps::experts_down_add_rows(Tensor x, Tensor a, const Weight& down, const Routing& routing) {
  const int64_t top_k = routing.expert_ids.size(1), picks = routing.sorted_picks.size(0);
  cuda::RowsProduct product{.out = x,
                            .rows = picks,
                            .finish = Finish::kAdd,
                            .offsets = routing.offsets.ptr<const int32_t>(),
                            .picks = routing.sorted_picks.ptr<const int32_t>()};
  if (top_k == 1) return multiply_rows(product, a, down, 1);  // a pick is a row of x
  product.out = Tensor(nullptr, DType::kF32, {picks, down.n});
  product.finish = Finish::kStore;
  if (!multiply_rows(product, a, down, 1, size_t(picks * down.n * 4))) return false;
  cuda::run_combine_picks(stream(), x, static_cast<const float*>(scratch(0)), top_k);
  return true;
}

}  // namespace llama4rt
