// Grids: the values that the codes of one group can mean, and the search for the one that fits weights whose errors
// count differently. Pure arithmetic on floats.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "weights/weight_formats.h"

namespace llama4rt::calibrate {

// How the codes of a weight mean numbers (docs/quantization.md).
struct GridSpec {
  WeightKind kind = WeightKind::kInt4;  // kInt4 or kInt8
  int group_size = 128;
  bool offsets = false;  // value = code * scale + offset instead of (code - zero) * scale
  DType scale_dtype = DType::kBF16;

  int codes() const { return 1 << weight_format(kind).bits; }
  int zero() const { return offsets ? 0 : weight_format(kind).zero; }
};

inline constexpr int64_t kLargestGroup = kGroupSizes.back();

struct Grid {
  float scale = 0;
  float offset = 0;
};

// How the nearest code of a grid is found: one multiplication, and a rounding to the nearest whole number, ties to even.
struct CodeRange {
  float low, high;  // code - zero of the first and the last code

  explicit CodeRange(const GridSpec& spec)
      : low(float(-spec.zero())), high(float(spec.codes() - 1 - spec.zero())) {}
};
// 0 where the scale is 0: then every code means the offset.
inline float inverse_scale(const Grid& grid) { return grid.scale == 0 ? 0.0f : 1.0f / grid.scale; }
// The nearest code - zero, a whole number.
inline float nearest_code(float x, float inverse, float offset, const CodeRange& range) {
  constexpr float kMagic = 0x1.8p23f;  // adding it rounds to a whole number
  const float t = (x - offset) * inverse;
  const float above = t > range.low ? t : range.low;
  const float within = above < range.high ? above : range.high;
  return (within + kMagic) - kMagic;
}

// The grid of the spec with the least sum of importance * (w - value)^2 that the search finds; its numbers are those of
// spec.scale_dtype. Groups of numbers too small for a scale have the scale 0.
//   w, importance: [round_up(count, 8)], finite, importance >= 0; zeros past count in both
Grid search_grid(const float* w, const float* importance, int64_t count, const GridSpec& spec);

}  // namespace llama4rt::calibrate
