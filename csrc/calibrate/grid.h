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

struct Grid {
  float scale = 0;
  float offset = 0;
};

// What `code` means, to the bit of the engine.
inline float grid_value(const Grid& grid, int zero, int code) {
  return float(code - zero) * grid.scale + grid.offset;
}

// The grid of the spec with the least sum of importance * (w - value)^2 that the search finds; its numbers are those of
// spec.scale_dtype. Groups of numbers too small for a scale have the scale 0.
//   w, importance: [round_up(count, 8)], finite, importance >= 0; zeros past count in both
Grid search_grid(const float* w, const float* importance, int64_t count, const GridSpec& spec);

}  // namespace llama4rt::calibrate
