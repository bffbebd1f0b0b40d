// The arrays beside the codes of a scaled weight, a row for each, so that packer, files and uploads walk one list. All
// lie as [N/16][column][16], lane = row, where a column is a group, or the inputs that share a factor.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "base/checked_math.h"
#include "base/dtype.h"
#include "weights/weight.h"

namespace llama4rt {

enum class Side : uint8_t { kScales, kZeros, kOffsets, kFactors, kOffsetFactors };

struct SideFormat {
  Side side;
  std::string_view suffix;  // of its tensor in engine files
  std::string_view words;   // for messages: "zero points"
};
inline constexpr std::array kSides = {
    SideFormat{Side::kScales, ".scales", "scales"},
    SideFormat{Side::kZeros, ".zeros", "zero points"},
    SideFormat{Side::kOffsets, ".offsets", "offsets"},
    SideFormat{Side::kFactors, ".factors", "factors"},
    SideFormat{Side::kOffsetFactors, ".offset_factors", "factors of offsets"},
};

// Shape: a Weight, or a PackSpec.
template <class Shape>
constexpr bool has_side(const Shape& shape, Side side) {
  if (!weight_format(shape.kind).is_scaled) return false;
  switch (side) {
    case Side::kScales:
      return true;
    case Side::kZeros:
      return bool(shape.zeros);
    case Side::kOffsets:
      return bool(shape.offsets);
    case Side::kFactors:
      return has_factors(shape.scale_dtype);
    case Side::kOffsetFactors:
      return bool(shape.offsets) && has_factors(shape.scale_dtype);
  }
  return false;
}
template <class Shape>
constexpr DType side_dtype(const Shape& shape, Side side) {
  if (side == Side::kZeros) return DType::kU8;
  return side == Side::kFactors || side == Side::kOffsetFactors ? shape.factor_dtype : shape.scale_dtype;
}
template <class Shape>
constexpr int64_t side_columns(const Shape& shape, Side side) {
  if (side != Side::kFactors && side != Side::kOffsetFactors) return shape.num_groups();
  return shape.row_factors ? 1 : ceil_div(shape.k, int64_t(kFactorInputs));
}
// The column of factors that a group's numbers are multiplied with.
template <class Shape>
constexpr int64_t factor_column(const Shape& shape, int64_t group) {
  return shape.row_factors ? 0 : group * shape.group_size / kFactorInputs;
}
// Bytes of one block of 16 rows.
template <class Shape>
constexpr int64_t side_block_bytes(const Shape& shape, Side side) {
  return has_side(shape, side) ? side_columns(shape, side) * 16 * int64_t(dtype_size(side_dtype(shape, side)))
                               : 0;
}

inline const void* side_data(const Weight& w, Side side) {
  switch (side) {
    case Side::kScales:
      return w.scales;
    case Side::kZeros:
      return w.zeros;
    case Side::kOffsets:
      return w.offsets;
    case Side::kFactors:
      return w.factors;
    case Side::kOffsetFactors:
      return w.offset_factors;
  }
  return nullptr;
}
inline void set_side(Weight& w, Side side, const void* data) {
  switch (side) {
    case Side::kScales:
      w.scales = data;
      return;
    case Side::kZeros:
      w.zeros = static_cast<const uint8_t*>(data);
      return;
    case Side::kOffsets:
      w.offsets = data;
      return;
    case Side::kFactors:
      w.factors = data;
      return;
    case Side::kOffsetFactors:
      w.offset_factors = data;
      return;
  }
}

}  // namespace llama4rt
