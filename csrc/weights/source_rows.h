// Reads rows of a SourceMatrix as fp32, whatever its dtype, order and alignment, and finds values that are
// not finite. Used by pack.cpp only.
#pragma once

#include <cstdint>
#include <vector>

#include "weights/pack.h"

namespace llama4rt {

// A few source rows as fp32, each followed by zeros up to the row pitch.
class SourceRows {
 public:
  explicit SourceRows(const SourceMatrix& source);

  // Makes rows [first, first + count) available.
  void load(int64_t first, int64_t count);
  const float* row(int64_t index) const { return values_.data() + (index - first_) * pitch_; }
  // Column of the first NaN or infinity of a loaded row, or -1.
  int64_t find_non_finite(int64_t index) const;

 private:
  void load_by_rows(int64_t count);
  void load_by_columns(int64_t count);

  const SourceMatrix& source_;
  int64_t pitch_;
  int64_t first_ = 0;
  std::vector<float> values_;
};

}  // namespace llama4rt
