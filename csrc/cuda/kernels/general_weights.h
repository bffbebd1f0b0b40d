// From a weight to what general kernels must know of it (device/general_weights.cuh), and which weights those are.
#pragma once

#include "base/checked_math.h"
#include "cuda/device/general_args.cuh"
#include "cuda/device/split_columns.h"
#include "weights/weight.h"

namespace llama4rt::cuda {

inline constexpr int kSmallestFixedGroup = 32;

// Whether the kernels whose groups, scales and zero points are fixed when they are compiled take this weight.
inline bool has_fixed_kernels(const Weight& w) {
  if (!w.quantized()) return true;
  if (w.kind != WeightKind::kInt4 && w.kind != WeightKind::kInt8) return false;
  if (w.offsets || w.group_size < kSmallestFixedGroup || (w.zeros && w.kind != WeightKind::kInt4))
    return false;
  return w.scale_dtype == DType::kBF16 || w.scale_dtype == DType::kF32;
}

// Boxes of further columns in a split, for sums of groups; 0 without offsets.
inline int group_boxes(const Weight& w) {
  return w.offsets ? int(ceil_div(int64_t(kSplitColumns), int64_t(w.group_size) * kGroupsOfBox)) : 0;
}

constexpr NumberType number_type(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return NumberType::kF16;
    case DType::kF32:
      return NumberType::kF32;
    case DType::kI8:
      return NumberType::kI8;
    case DType::kF8E4M3:
      return NumberType::kF8;
    case DType::kBF16:
    case DType::kI64:
    case DType::kI32:
    case DType::kU8:
      break;
  }
  return NumberType::kBF16;
}

inline GeneralArgs general_args(const Weight& w) {
  if (has_fixed_kernels(w)) return {};
  GeneralArgs args{.zero = w.implied_zero(),
                   .numbers = number_type(w.scale_dtype),
                   .number_bytes = int(dtype_size(w.scale_dtype)),
                   .has_zeros = w.zeros != nullptr,
                   .has_factors = has_factors(w.scale_dtype),
                   .boxes = group_boxes(w)};
  while (1 << args.group_shift < w.group_size) ++args.group_shift;
  for (int i = 0; i < 16; ++i) {
    const uint32_t bits = to_bf16(float(w.table[size_t(i)])).bits;  // exact
    args.table_low[i / 4] |= (bits & 0xff) << 8 * (i % 4);
    args.table_high[i / 4] |= bits >> 8 << 8 * (i % 4);
  }
  return args;
}

}  // namespace llama4rt::cuda
