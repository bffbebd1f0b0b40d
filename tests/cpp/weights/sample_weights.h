// Values to pack, the rows they come from, and the shape of the weight they become. Used by the tests of weights and of
// the files that hold them.
#pragma once

#include <random>
#include <vector>

#include "weights/pack.h"

namespace llama4rt::test {

// Normally distributed values, the same for the same seed.
inline std::vector<float> gaussian(size_t count, uint32_t seed, float sigma = 0.05f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, sigma);
  std::vector<float> values(count);
  for (float& v : values) v = normal(random);
  return values;
}

inline std::vector<int64_t> row_range(int64_t begin, int64_t end) {
  std::vector<int64_t> rows;
  for (int64_t row = begin; row < end; ++row) rows.push_back(row);
  return rows;
}

inline SourceMatrix source_of(const std::vector<float>& values, int64_t rows, int64_t columns) {
  return {values.data(), DType::kF32, rows, columns, columns * 4, 4};
}

// A weight without data.
inline Weight weight_shape(WeightKind kind, int64_t experts, int64_t n, int64_t k, int group_size = 32,
                           DType scale_dtype = DType::kBF16) {
  Weight w;
  w.kind = kind;
  w.num_experts = experts;
  w.n = n;
  w.k = k;
  w.group_size = kind == WeightKind::kBF16 ? 0 : group_size;
  w.scale_dtype = scale_dtype;
  return w;
}

}  // namespace llama4rt::test
