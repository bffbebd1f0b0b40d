// CudaBackend: linears with many rows of x, of one matrix and of routed experts. Which kernel runs depends on
// the number of rows; a row's bits do not.
#include <cstdlib>
#include <string_view>

#include "base/checked_math.h"
#include "cuda/cuda_backend.h"
#include "cuda/kernels/linear_rows.h"

namespace llama4rt {
namespace {

// Rows per matrix, on average, up to which linear_decode is faster, and up to which linear_medium is.
constexpr int64_t kMostDecodeRows = 16;
constexpr int64_t kMostMediumRows = 128;
constexpr int64_t kMostMediumRowsOfExpert = 64;  // its tile of x; linear_prefill's has 128

// LLAMA4RT_CUDA_PREFILL=medium keeps wgmma out, in case its sums and those of mma.sync differ in their last
// bits (docs/kernels/cuda_linear_prefill.md).
bool may_use_wgmma() {
  static const bool may = [] {
    const char* choice = std::getenv("LLAMA4RT_CUDA_PREFILL");
    return !choice || std::string_view(choice) != "medium";
  }();
  return may;
}

}  // namespace

bool CudaBackend::many_rows(int64_t rows, const Weight& w) {
  return rows > kMostDecodeRows * w.num_experts && cuda::LinearMedium::supports(w);
}

bool CudaBackend::multiply_rows(cuda::RowsProduct product, Tensor x, const Weight& w, int64_t slots_per_row,
                                size_t y_bytes) {
  if (!many_rows(product.rows, w)) return false;
  const int64_t most_medium = product.offsets ? kMostMediumRowsOfExpert * w.num_experts : kMostMediumRows;
  const bool prefill =
      product.rows > most_medium && may_use_wgmma() && cuda::LinearPrefill::supports(w, info_);
  const int processors = info_.multiprocessors;
  const size_t x_bytes = round_up(size_t(product.rows * cuda::rounded_stride(w.k) * 2), size_t(256));
  const size_t sums = prefill ? 0 : cuda::LinearMedium::scratch_bytes(w, product.rows, processors);
  y_bytes = round_up(y_bytes, size_t(256));

  auto* const memory = static_cast<char*>(scratch(y_bytes + x_bytes + sums));  // y, x in bf16, sums of splits
  if (y_bytes > 0) product.out.data = memory;
  product.x = memory + y_bytes;
  cuda::run_round_rows(stream_, memory + y_bytes, x, product.slots, product.rows, slots_per_row);
  if (prefill) {
    cuda::LinearPrefill::run(stream_, product, w, processors);
  } else {
    cuda::LinearMedium::run(stream_, product, w, processors, memory + y_bytes + x_bytes,
                            tickets(cuda::LinearMedium::ticket_bytes(w, product.rows, processors)));
  }
  return true;
}

bool CudaBackend::experts_gate_up_rows(Tensor a, Tensor h, const Weight& gate_up, const Routing& routing) {
  return multiply_rows({.out = a,
                        .rows = routing.sorted_slots.size(0),
                        .finish = cuda::Finish::kSwiGlu,
                        .offsets = routing.offsets.ptr<const int32_t>(),
                        .slots = routing.sorted_slots.ptr<const int32_t>(),
                        .scores = routing.scores.ptr<const float>()},
                       h, gate_up, routing.expert_ids.size(1));
}

bool CudaBackend::experts_down_add_rows(Tensor x, Tensor a, const Weight& down, const Routing& routing) {
  const int64_t top_k = routing.expert_ids.size(1), slots = routing.sorted_slots.size(0);
  cuda::RowsProduct product{.out = x,
                            .rows = slots,
                            .finish = cuda::Finish::kAdd,
                            .offsets = routing.offsets.ptr<const int32_t>(),
                            .slots = routing.sorted_slots.ptr<const int32_t>()};
  if (top_k == 1) return multiply_rows(product, a, down, 1);  // a slot is a row of x
  product.out = Tensor(nullptr, DType::kF32, {slots, down.n});
  product.finish = cuda::Finish::kStore;
  if (!multiply_rows(product, a, down, 1, size_t(slots * down.n * 4))) return false;
  cuda::run_combine_slots(stream_, x, static_cast<const float*>(scratch(0)), top_k);
  return true;
}

}  // namespace llama4rt
