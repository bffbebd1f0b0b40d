// Runs the matmuls with many rows of x, each kernel by name, for their tests.
#pragma once

#include "cuda/kernels/linear_rows.h"
#include "cuda/products.h"

namespace llama4rt::test {

// linear_medium with the splits of K one after the other in a block, or beside each other; linear_prefill.
enum class RowsKernel { kMedium, kMediumSplits, kPrefill };
// Those that this device has: linear_prefill is Hopper's.
inline std::vector<RowsKernel> rows_kernels() {
  std::vector<RowsKernel> all = {RowsKernel::kMedium, RowsKernel::kMediumSplits};
  if (cuda::device_info(0).major == 9) all.push_back(RowsKernel::kPrefill);
  return all;
}
inline const char* rows_kernel_name(RowsKernel kernel) {
  static constexpr const char* kNames[] = {"medium", "medium, splits beside each other", "prefill"};
  return kNames[int(kernel)];
}

// product.x and its rows are filled in from x and picks.
inline void multiply_rows(cuda::Stream& stream, RowsKernel kernel, cuda::RowsProduct product, Tensor x,
                          const Weight& w, int64_t picks_per_row = 1) {
  if (!product.picks) product.rows = x.size(0);
  const cuda::DeviceBuffer rounded(size_t(product.rows * cuda::rounded_stride(w.k) * 2));
  product.x = rounded.data();
  cuda::run_round_rows(stream, rounded.data(), x, product.picks, product.rows, picks_per_row);
  if (kernel == RowsKernel::kPrefill) {
    cuda::LinearPrefill::run(stream, product, w, 3);  // three blocks share the tiles
  } else {
    const int multiprocessors = kernel == RowsKernel::kMediumSplits ? 1000000 : 0;
    const cuda::DeviceBuffer scratch(cuda::LinearMedium::scratch_bytes(w, product.rows, multiprocessors));
    const cuda::DeviceBuffer tickets(cuda::LinearMedium::ticket_bytes(w, product.rows, multiprocessors));
    if (tickets.size() > 0) stream.fill(tickets.data(), 0, tickets.size());
    cuda::LinearMedium::run(stream, product, w, multiprocessors, scratch.data(), tickets.as<uint32_t>());
    stream.synchronize();
  }
  stream.synchronize();
}

// What a device's experts_gate_up and experts_down_add do, by one kernel.
inline void experts_gate_up_rows(cuda::Stream& stream, RowsKernel kernel, Tensor a, Tensor h, const Weight& w,
                                 const Routing& routing) {
  multiply_rows(stream, kernel,
                {.out = a,
                 .rows = routing.sorted_picks.size(0),
                 .finish = Finish::kSwiGlu,
                 .offsets = routing.offsets.ptr<const int32_t>(),
                 .picks = routing.sorted_picks.ptr<const int32_t>(),
                 .scores = routing.scores.ptr<const float>()},
                h, w, routing.expert_ids.size(1));
}
inline void experts_down_add_rows(cuda::Stream& stream, RowsKernel kernel, Tensor x, Tensor a,
                                  const Weight& w, const Routing& routing) {
  const int64_t top_k = routing.expert_ids.size(1), picks = routing.sorted_picks.size(0);
  const cuda::DeviceBuffer y(size_t(picks * w.n * 4));
  cuda::RowsProduct product{.out = x,
                            .rows = picks,
                            .finish = Finish::kAdd,
                            .offsets = routing.offsets.ptr<const int32_t>(),
                            .picks = routing.sorted_picks.ptr<const int32_t>()};
  if (top_k > 1) {
    product.out = Tensor(y.data(), DType::kF32, {picks, w.n});
    product.finish = Finish::kStore;
  }
  multiply_rows(stream, kernel, product, a, w);
  if (top_k > 1) cuda::run_combine_picks(stream, x, y.as<const float>(), top_k);
  stream.synchronize();
}

}  // namespace llama4rt::test
