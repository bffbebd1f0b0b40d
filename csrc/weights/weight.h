// How a weight matrix is stored, and Weight: the view of one matrix (or one stack of expert matrices) that
// ops take.
//
// What each kind of value means is in weight_formats.h; where each element lies is in layout.h.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/checked_math.h"
#include "base/dtype.h"
#include "weights/weight_formats.h"

namespace llama4rt {

enum class Layout : uint8_t {
  kRowMajor,  // bf16 only: [N, K]; embedding tables, gathered by row
  kCpu16,     // blocks of 16 rows (weights/layout.h): the matrices of the CPU and the reference
  kCudaTile,  // tiles of 16 rows and 512 bytes (weights/layout.h): the matrices of CUDA
};

constexpr std::string_view layout_name(Layout layout) {
  switch (layout) {
    case Layout::kRowMajor:
      return "row_major";
    case Layout::kCpu16:
      return "cpu16";
    case Layout::kCudaTile:
      return "cuda_tile";
  }
  return "";
}
// Whether a GPU's kernels read it. Tables (kRowMajor) are on any device.
constexpr bool is_gpu_layout(Layout layout) { return layout == Layout::kCudaTile; }

// How scales and offsets may be stored: as numbers, or as numbers of 8 bits that are multiplied with a factor that
// kFactorInputs inputs share, or a row (each product rounded to fp32; GGUF's K-quants and NVFP4 have such scales).
inline constexpr int kFactorInputs = 256;
constexpr bool has_factors(DType scale_dtype) {
  return scale_dtype == DType::kI8 || scale_dtype == DType::kF8E4M3;
}
constexpr bool valid_scale_dtype(DType dtype) {
  return dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF32 || has_factors(dtype);
}
constexpr bool valid_factor_dtype(DType dtype) { return dtype == DType::kF16 || dtype == DType::kF32; }

struct Weight {
  WeightKind kind = WeightKind::kBF16;
  Layout layout = Layout::kCpu16;
  int64_t num_experts = 1;               // E: matrices stacked in this weight; 1 for an ordinary linear
  int64_t n = 0;                         // output rows of one matrix
  int64_t k = 0;                         // input columns
  int group_size = 0;                    // inputs that share a scale; 0 for bf16
  const void* data = nullptr;            // [E, layout bytes]
  const void* scales = nullptr;          // [E, ceil(N/16), groups, 16] of scale_dtype; null for bf16
  const uint8_t* zeros = nullptr;        // [E, ceil(N/16), groups, 16] zero points, or null
  const void* offsets = nullptr;         // as scales, or null
  const void* factors = nullptr;         // [E, ceil(N/16), columns, 16] of scales, where has_factors()
  const void* offset_factors = nullptr;  // as factors, of offsets
  DType scale_dtype = DType::kBF16;
  DType factor_dtype = DType::kF32;  // F16 or F32
  bool row_factors = false;          // a factor for each row, instead of one for kFactorInputs inputs
  CodeTable table = kEvenTable;      // of kTable4

  explicit operator bool() const { return data != nullptr; }
  const WeightFormat& format() const { return weight_format(kind); }
  bool quantized() const { return format().is_scaled; }
  // Codes stand for whole numbers: they meet activations that are quantised too (docs/numerics.md).
  bool has_integer_codes() const {
    return format().meaning == CodeMeaning::kInteger || format().meaning == CodeMeaning::kTable;
  }
  // The zero point of groups without one.
  int implied_zero() const { return offsets ? 0 : format().zero; }
  int64_t num_groups() const { return group_size == 0 ? 0 : ceil_div(k, int64_t(group_size)); }
};

// Why the device of a weight's layout has no kernels for it, or "".
std::string weight_refusal(const Weight& w);

}  // namespace llama4rt
