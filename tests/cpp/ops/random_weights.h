// Random numbers, random matrices and random packed weights for tests and benchmarks. Weights are written
// through weights/layout.h only, one element at a time, so that they share no code with the packer.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <vector>

#include "base/tensor.h"
#include "ops/cases.h"
#include "weights/layout.h"
#include "weights/weight.h"

namespace llama4rt::test {

// splitmix64: the same numbers on every machine and standard library.
class Rng {
 public:
  explicit Rng(uint64_t seed) : state_(seed) {}
  uint64_t bits() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  int64_t below(int64_t n) { return int64_t(bits() % uint64_t(n)); }
  float uniform(float low, float high) { return low + (high - low) * float(bits() >> 40) * 0x1p-24f; }
  float normal() {
    const double radius = std::sqrt(-2.0 * std::log((double(bits() >> 11) + 1.0) * 0x1p-53));
    return float(radius * std::cos(6.283185307179586 * double(bits() >> 11) * 0x1p-53));
  }

 private:
  uint64_t state_;
};

// 64-byte aligned bytes, all zero.
class AlignedBytes {
 public:
  AlignedBytes() = default;
  explicit AlignedBytes(int64_t size) : size_(size_t(size)) {
    data_.reset(std::aligned_alloc(64, round_up(std::max<size_t>(size_, 1), size_t(64))));
    std::memset(data_.get(), 0, size_);
  }
  size_t size() const { return size_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_.get());
  }

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  size_t size_ = 0;
  std::unique_ptr<void, Free> data_;
};

// A fp32 matrix whose rows are further apart than they are wide. What lies between the rows is NaN: an op
// that reads it shows in its result, an op that writes it is found by intact().
class Matrix {
 public:
  Matrix(int64_t rows, int64_t columns)
      : rows_(rows),
        columns_(columns),
        stride_(columns + 5),
        data_(size_t(rows * stride_), std::numeric_limits<float>::quiet_NaN()) {}

  Tensor view() {
    Tensor t(data_.data(), DType::kF32, {rows_, columns_});
    t.stride0 = stride_;
    return t;
  }
  float* row(int64_t i) { return data_.data() + i * stride_; }
  const float* row(int64_t i) const { return data_.data() + i * stride_; }
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  Matrix part(int64_t first, int64_t count) const {
    Matrix m(count, columns_);
    for (int64_t i = 0; i < count; ++i) std::copy_n(row(first + i), columns_, m.row(i));
    return m;
  }
  bool intact() const {
    for (int64_t i = 0; i < rows_; ++i)
      for (int64_t j = columns_; j < stride_; ++j)
        if (!std::isnan(row(i)[j])) return false;
    return true;
  }
  bool operator==(const Matrix& other) const {  // bit for bit; NaN equals itself
    return rows_ == other.rows_ && columns_ == other.columns_ &&
           std::memcmp(data_.data(), other.data_.data(), data_.size() * 4) == 0;
  }

 private:
  int64_t rows_, columns_, stride_;
  std::vector<float> data_;
};

// Rows as activations are: different sizes, some with a few outliers, some with a stretch of zeros (a weight
// group whose largest activation is 0).
inline Matrix random_activations(Rng& rng, int64_t rows, int64_t columns) {
  Matrix m(rows, columns);
  for (int64_t i = 0; i < rows; ++i) {
    const float size = rng.uniform(0.2f, 3.0f);
    for (int64_t j = 0; j < columns; ++j) m.row(i)[j] = size * rng.normal();
    if (i % 3 == 1)
      for (int outlier = 0; outlier < 3; ++outlier) m.row(i)[rng.below(columns)] *= 40.0f;
    if (i % 5 == 2) std::fill_n(m.row(i), std::min<int64_t>(columns, 128), 0.0f);
  }
  return m;
}

// Cut to the bits that a half has; zero below its normal range.
inline fp16 half_of(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), exponent = bits >> 23 & 0xff;
  if (exponent < 113) return {0};
  return {uint16_t((bits >> 16 & 0x8000) | (exponent - 112) << 10 | (bits >> 13 & 0x3ff))};
}

// Owns the memory of one Weight. Elements of rows that are not filled are padding: q = 0, scale = 0.
class RandomWeight {
 public:
  RandomWeight(Rng& rng, const cases::WeightSpec& spec, int64_t experts, int64_t n, int64_t k)
      : RandomWeight(rng, spec, experts, n, k, all_rows(n)) {}

  const Weight& view() const { return weight_; }
  size_t bytes() const {
    size_t sum = data_.size();
    for (const AlignedBytes& side : sides_) sum += side.size();
    return sum;
  }
  // A second copy of the same weight elsewhere in memory, for benchmarks that must miss the caches.
  RandomWeight copy() const {
    RandomWeight other;
    other.weight_ = weight_;
    other.data_ = copy_of(data_);
    for (size_t i = 0; i < sides_.size(); ++i) other.sides_[i] = copy_of(sides_[i]);
    other.point();
    return other;
  }

 protected:
  RandomWeight() = default;
  RandomWeight(Rng& rng, const cases::WeightSpec& spec, int64_t experts, int64_t n, int64_t k,
               const std::vector<int64_t>& rows) {
    weight_ = {.kind = spec.kind,
               .num_experts = experts,
               .n = n,
               .k = k,
               .group_size = spec.group_size,
               .scale_dtype = spec.scales,
               .factor_dtype = spec.factors,
               .row_factors = spec.row_factors,
               .table = spec.table};
    data_ = AlignedBytes(experts * cpu16::matrix_bytes(spec.kind, n, k));
    // What has_side() asks; point() sets what they point to.
    if (spec.zeros) weight_.zeros = data_.as<uint8_t>();
    if (spec.offsets) weight_.offsets = data_.as<void>();
    for (const SideFormat& format : kSides)
      sides_[size_t(format.side)] =
          AlignedBytes(experts * cpu16::num_blocks(n) * side_block_bytes(weight_, format.side));
    point();
    for (int64_t e = 0; e < experts; ++e)
      for (int64_t row : rows) fill_row(rng, e, row);
  }

  static std::vector<int64_t> all_rows(int64_t n) {
    std::vector<int64_t> rows(static_cast<size_t>(n));
    std::iota(rows.begin(), rows.end(), int64_t(0));
    return rows;
  }

 private:
  static AlignedBytes copy_of(const AlignedBytes& from) {
    AlignedBytes to(int64_t(from.size()));
    if (from.size() > 0) std::memcpy(to.as<char>(), from.as<char>(), from.size());
    return to;
  }

  void point() {
    weight_.data = data_.as<void>();
    for (size_t i = 0; i < sides_.size(); ++i)
      set_side(weight_, kSides[i].side, sides_[i].size() > 0 ? sides_[i].as<void>() : nullptr);
  }

  uint32_t random_bits(Rng& rng) const {
    if (!weight_.quantized()) return to_bf16(kDeviation * rng.normal()).bits;
    return finite_code(weight_.kind, uint32_t(rng.bits()) & code_mask(weight_.kind));
  }

  // Values of about 0.05, so that products with activations of about 1 are about 1 for a few hundred inputs.
  void fill_row(Rng& rng, int64_t expert, int64_t n) {
    const Weight& w = weight_;
    char* matrix = data_.as<char>() + expert * cpu16::matrix_bytes(w.kind, w.n, w.k);
    for (int64_t k = 0; k < w.k; ++k) {
      const uint32_t bits = random_bits(rng);
      uint32_t word = 0;
      char* p = matrix + cpu16::word_offset(w.kind, n, k, w.k);
      std::memcpy(&word, p, 4);
      word |= bits << cpu16::bit_offset(w.kind, k);
      std::memcpy(p, &word, 4);
    }
    if (w.quantized()) fill_sides(rng, expert, n);
  }

  void fill_sides(Rng& rng, int64_t expert, int64_t n) {
    const Weight& w = weight_;
    const float step = kDeviation / w.format().code_deviation;
    const int64_t codes = int64_t(code_mask(w.kind)) + 1;
    // Factors are such that numbers of about 32 are scales of about `step`.
    constexpr float kNumber = 32;
    for (const auto& [side, size] :
         {std::pair{Side::kFactors, step}, {Side::kOffsetFactors, -step * float(codes) / 2}})
      for (int64_t c = 0; has_side(w, side) && c < side_columns(w, side); ++c)
        put(side, expert, n, c, size / kNumber * rng.uniform(0.5f, 1.5f));
    const bool factored = has_factors(w.scale_dtype);
    for (int64_t group = 0; group < w.num_groups(); ++group) {
      const float scale = rng.uniform(0.5f, 1.5f);
      put(Side::kScales, expert, n, group, factored ? kNumber * scale : step * scale);
      if (w.zeros) put(Side::kZeros, expert, n, group, float(rng.below(codes)));
      // Negative, as that of codes whose smallest value is negative.
      const float offset = w.offsets ? rng.uniform(0, 2) : 0;
      if (w.offsets)
        put(Side::kOffsets, expert, n, group,
            factored ? kNumber * offset : -step * scale * offset * float(codes) / 2);
    }
  }

  // Stores an element of a side as its type has it.
  void put(Side side, int64_t expert, int64_t n, int64_t column, float value) {
    const int64_t columns = side_columns(weight_, side);
    const int64_t i = expert * cpu16::num_blocks(weight_.n) * cpu16::kRows * columns +
                      cpu16::scale_index(n, column, columns);
    const AlignedBytes& bytes = sides_[size_t(side)];
    switch (side_dtype(weight_, side)) {
      case DType::kF32:
        bytes.as<float>()[i] = value;
        return;
      case DType::kBF16:
        bytes.as<bf16>()[i] = to_bf16(value);
        return;
      case DType::kF16:
        bytes.as<fp16>()[i] = half_of(value);
        return;
      case DType::kI8:
        bytes.as<int8_t>()[i] = int8_t(value);
        return;
      case DType::kF8E4M3:
        bytes.as<f8e4m3>()[i] = to_f8e4m3(value);
        return;
      case DType::kU8:
        bytes.as<uint8_t>()[i] = uint8_t(value);
        return;
      case DType::kI64:
      case DType::kI32:
        return;
    }
  }
  static constexpr float kDeviation = 0.05f;

  Weight weight_;
  AlignedBytes data_;
  std::array<AlignedBytes, kSides.size()> sides_;
};

// A gate_up weight: rows interleaved as layout.h says, the rows that pad F to a multiple of 16 left empty.
class RandomGateUp : public RandomWeight {
 public:
  RandomGateUp(Rng& rng, const cases::WeightSpec& spec, int64_t experts, int64_t f, int64_t k)
      : RandomWeight(rng, spec, experts, cpu16::gate_up_rows(f), k, half_rows(f)) {}

 private:
  static std::vector<int64_t> half_rows(int64_t f) {
    std::vector<int64_t> rows;
    for (int64_t i = 0; i < f; ++i) rows.insert(rows.end(), {cpu16::gate_row(i), cpu16::up_row(i)});
    return rows;
  }
};

}  // namespace llama4rt::test
