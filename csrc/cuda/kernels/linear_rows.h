// Launchers of the linears with many rows of x: single matrices and stacks of experts.
//
// The rows of x go through round_rows first; which kernel then multiplies changes no bit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/tensor.h"
#include "cuda/kernels/linear.h"
#include "cuda/runtime.h"
#include "format/quant.h"

namespace llama4rt::cuda {

// Columns of a row of bf16 in scratch: K rounded up to 64.
int64_t rounded_stride(int64_t k);
// out: [R, rounded_stride(K)] bf16, zeros past K; row i is row i of x, or with `slots` (device memory,
// num_slots of them) row slots[i] / slots_per_row.
void run_round_rows(Stream& stream, void* out, Tensor x, const int32_t* slots = nullptr,
                    int64_t num_slots = 0, int64_t slots_per_row = 1);
// x[t] += y[t * K] + ... + y[t * K + K - 1], summed first.   x: [T, N]; y: [T * K, N] in device memory.
void run_combine_slots(Stream& stream, Tensor x, const float* y, int64_t top_k);

// One product of many rows. Pointers are device memory.
struct RowsProduct {
  Tensor out;               // [., N] or, with kSwiGlu, [., F]
  const void* x = nullptr;  // from round_rows
  int64_t rows = 0;         // R
  Finish finish = Finish::kStore;
  // Of routed experts: where each one's rows begin, I32 [E + 1]; the row of `out` and of scores of each row
  // of x, I32 [R]; the router's scores, with kSwiGlu.
  const int32_t* offsets = nullptr;
  const int32_t* slots = nullptr;
  const float* scores = nullptr;
};

// mma.m16n8k16: any GPU, any number of rows; made for 17 to 128.
struct LinearMedium {
  static bool supports(const Weight& w);
  // Scratch for the sums of splits, beside x; tickets.
  static size_t scratch_bytes(const Weight& w, int64_t rows, int multiprocessors);
  static size_t ticket_bytes(const Weight& w, int64_t rows, int multiprocessors);
  static void run(Stream& stream, const RowsProduct& product, const Weight& w, int multiprocessors,
                  void* scratch, uint32_t* tickets);
};

// wgmma: Hopper; made for more than 128 rows. One block per multiprocessor.
struct LinearPrefill {
  static bool supports(const Weight& w, const DeviceInfo& device);
  static void run(Stream& stream, const RowsProduct& product, const Weight& w, int multiprocessors);
};

}  // namespace llama4rt::cuda
