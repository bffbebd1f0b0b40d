// How a weight matrix is stored, and Weight: the view of one matrix (or one stack of expert matrices) that
// ops take.
//
// A weight maps an input vector of K values to N outputs:  y[n] = sum_k x[k] * w[n, k].
//   bf16:  w[n, k] as stored
//   int8:  w[n, k] = (q[n, k] - 128) * scale[n, k / group]                          q in 0..255
//   int4:  w[n, k] = (q[n, k] - z)   * scale[n, k / group]     z = 8 or zero[n, k / group], q in 0..15
// Scales are bf16 or fp32. format/layout.h says where each element lies.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/checked_math.h"
#include "base/dtype.h"

namespace llama4rt {

enum class WeightKind : uint8_t { kBF16, kInt8, kInt4 };

enum class Layout : uint8_t {
  kRowMajor,  // bf16 only: [N, K]; embedding tables, gathered by row
  kCpu16,     // blocks of 16 rows (format/layout.h): the matrices of the CPU and reference backends
  kCudaTile,  // tiles of 16 rows and 512 bytes (format/layout.h): the matrices of the CUDA backend
};

constexpr std::string_view weight_kind_name(WeightKind kind) {
  return kind == WeightKind::kBF16 ? "bf16" : kind == WeightKind::kInt8 ? "int8" : "int4";
}
constexpr std::string_view layout_name(Layout layout) {
  return layout == Layout::kRowMajor ? "row_major" : layout == Layout::kCpu16 ? "cpu16" : "cuda_tile";
}
// The q that stands for zero when a weight has no zero points.
constexpr int symmetric_zero(WeightKind kind) { return kind == WeightKind::kInt8 ? 128 : 8; }

// The group sizes an engine file may use. 128 also keeps a group's integer dot product (8-bit q, 16-bit x)
// inside int32.
constexpr bool valid_group_size(int64_t group_size) {
  return group_size == 32 || group_size == 64 || group_size == 128;
}

struct Weight {
  WeightKind kind = WeightKind::kBF16;
  Layout layout = Layout::kCpu16;
  int64_t num_experts = 1;         // E: matrices stacked in this weight; 1 for an ordinary linear
  int64_t n = 0;                   // output rows of one matrix
  int64_t k = 0;                   // input columns
  int group_size = 0;              // inputs that share a scale; 0 for bf16
  const void* data = nullptr;      // [E, layout bytes]
  const void* scales = nullptr;    // [E, ceil(N/16), groups, 16] bf16 or f32; null for bf16
  const uint8_t* zeros = nullptr;  // [E, ceil(N/16), groups, 16]; null when symmetric
  DType scale_dtype = DType::kBF16;

  explicit operator bool() const { return data != nullptr; }
  bool quantized() const { return kind != WeightKind::kBF16; }
  int64_t num_groups() const { return group_size == 0 ? 0 : ceil_div(k, int64_t(group_size)); }
};

}  // namespace llama4rt
