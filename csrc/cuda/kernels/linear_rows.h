// Launchers of the linears with many rows of x, single matrices and stacks of experts, and the choice among
// them.
//
// The rows of x go through round_rows first; which kernel then multiplies changes no bit.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/checked_math.h"
#include "base/tensor.h"
#include "cuda/kernels/general_weights.h"
#include "cuda/kernels/linear_decode.h"
#include "cuda/runtime.h"
#include "weights/layout.h"
#include "weights/weight.h"

namespace llama4rt::cuda {

// The largest GPU a plan made without one allows for (B300 has 148).
inline constexpr int kMostMultiprocessors = 192;

// Rows per matrix, on average, up to which streaming the weights past them (linear_decode) is the better way,
// and up to which linear_medium is.
inline constexpr int64_t kMostDecodeRows = 16;
inline constexpr int64_t kMostMediumRows = 128;
inline constexpr int64_t kMostMediumRowsOfExpert = 64;  // its tile of x; linear_prefill's has 128

// Columns of a row of bf16 in scratch; with offsets there are further ones behind each split's.
inline int64_t rounded_stride(const Weight& w) {
  return round_up(w.k, int64_t(64)) + num_k_splits(w) * group_boxes(w) * kBoxColumns;
}
// out: [R, rounded_stride(w)] bf16, zeros past K; row i is row i of x, or with `picks` (device memory,
// num_picks of them) row picks[i] / picks_per_row. For products with w.
void run_round_rows(Stream& stream, void* out, Tensor x, const Weight& w, const int32_t* picks = nullptr,
                    int64_t num_picks = 0, int64_t picks_per_row = 1);
// x[t] += y[t * K] + ... + y[t * K + K - 1], summed first.   x: [T, N]; y: [T * K, N] in device memory.
void run_combine_picks(Stream& stream, Tensor x, const float* y, int64_t top_k);

// One product of many rows. Pointers are device memory.
struct RowsProduct {
  Tensor out;               // [., N] or, with kSwiGlu, [., F]
  const void* x = nullptr;  // from round_rows
  int64_t rows = 0;         // R
  Finish finish = Finish::kStore;
  // Of routed experts: where each one's rows begin, I32 [E + 1]; the row of `out` and of scores of each row
  // of x, I32 [R]; the router's scores, with kSwiGlu.
  const int32_t* offsets = nullptr;
  const int32_t* picks = nullptr;
  const float* scores = nullptr;
};

inline bool rows_supports(const Weight& w) {
  if (w.layout != Layout::kCudaTile || !weight_refusal(w).empty()) return false;
  // Scales are found with 32-bit indices.
  return w.n <= int64_t(1) << 30 && cpu16::matrix_scales(w.n, w.k, kGroupSizes[0]) < int64_t(1) << 31;
}

// Tiles of `size` rows there can be at most, however rows are spread over experts.
constexpr int64_t most_row_tiles(int64_t rows, int64_t experts, int64_t size) {
  if (experts == 1) return ceil_div(rows, size);
  return rows / size + std::min(experts, rows);
}

// mma.m16n8k16: any GPU, any number of rows; made for 17 to 128.
struct LinearMedium {
  static constexpr int64_t kRows = 128, kTokens = 64;  // of a block: rows of w and of x
  // Waves of blocks from which on splits of K need not run beside each other.
  static constexpr int64_t kEnoughWaves = 2;

  static bool supports(const Weight& w) { return rows_supports(w) && num_k_splits(w) <= 65535; }
  static int64_t blocks(const Weight& w, int64_t rows) {
    return ceil_div(w.n, kRows) * most_row_tiles(rows, w.num_experts, kTokens);
  }
  // Splits of K that run beside each other; 1: one after the other.
  static int64_t splits_beside(const Weight& w, int64_t rows, int multiprocessors) {
    return blocks(w, rows) >= kEnoughWaves * multiprocessors ? 1 : num_k_splits(w);
  }
  // Scratch for the sums of splits, beside x; tickets.
  static size_t scratch_bytes(const Weight& w, int64_t rows, int multiprocessors) {
    const int64_t splits = splits_beside(w, rows, multiprocessors);
    return splits == 1 ? 0 : size_t(blocks(w, rows) * splits * kRows * kTokens * 4);
  }
  static size_t ticket_bytes(const Weight& w, int64_t rows, int multiprocessors) {
    return splits_beside(w, rows, multiprocessors) == 1 ? 0 : size_t(blocks(w, rows) * 4);
  }
  // The most of both for so many rows or fewer on any GPU of at most kMostMultiprocessors: beside splits
  // there are never more blocks than fill them.
  static int64_t most_split_blocks(const Weight& w, int64_t rows) {
    return num_k_splits(w) == 1 ? 0 : std::min(blocks(w, rows), kEnoughWaves * kMostMultiprocessors - 1);
  }
  static size_t most_scratch_bytes(const Weight& w, int64_t rows) {
    return size_t(most_split_blocks(w, rows) * num_k_splits(w) * kRows * kTokens * 4);
  }
  static size_t most_ticket_bytes(const Weight& w, int64_t rows) {
    return size_t(most_split_blocks(w, rows) * 4);
  }
  static void run(Stream& stream, const RowsProduct& product, const Weight& w, int multiprocessors,
                  void* scratch, uint32_t* tickets);
};

// wgmma: Hopper; made for more than 128 rows. One block per multiprocessor.
struct LinearPrefill {
  // Codes of 8 bits with a scale for each 16 columns would take more registers than there are.
  static bool has_kernel(const Weight& w) {
    return rows_supports(w) && (w.group_size != 16 || w.format().bits == 4);
  }
  static bool supports(const Weight& w, const DeviceInfo& device);
  static void run(Stream& stream, const RowsProduct& product, const Weight& w, int multiprocessors);
};

// Whether so many rows are too many for streaming the weights past them, and a kernel takes this weight.
inline bool many_rows(int64_t rows, const Weight& w) {
  return rows > kMostDecodeRows * w.num_experts && LinearMedium::supports(w);
}
// Scratch of such a product, one behind the other: y, x in bf16, sums of splits.
struct RowsMemory {
  size_t y = 0, x = 0, sums = 0;
  RowsMemory(size_t y_bytes, const Weight& w, int64_t rows, size_t sum_bytes)
      : y(round_up(y_bytes, size_t(256))),
        x(round_up(size_t(rows * rounded_stride(w) * 2), size_t(256))),
        sums(sum_bytes) {}
  size_t total() const { return y + x + sums; }
};

}  // namespace llama4rt::cuda
