// Random numbers, random matrices and random packed weights for tests and benchmarks. Weights are written
// through weights/layout.h only, one element at a time, so that they share no code with the packer.
#pragma once

#include <algorithm>
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

// Owns the memory of one Weight. Elements of rows that are not filled are padding: q = 0, scale = 0.
class RandomWeight {
 public:
  RandomWeight(Rng& rng, const cases::WeightSpec& spec, int64_t experts, int64_t n, int64_t k)
      : RandomWeight(rng, spec, experts, n, k, all_rows(n)) {}

  const Weight& view() const { return weight_; }
  size_t bytes() const { return data_.size() + scales_.size() + zeros_.size() + offsets_.size(); }
  // A second copy of the same weight elsewhere in memory, for benchmarks that must miss the caches.
  RandomWeight copy() const {
    RandomWeight other;
    other.weight_ = weight_;
    for (auto [from, to] : {std::pair{&data_, &other.data_},
                            {&scales_, &other.scales_},
                            {&zeros_, &other.zeros_},
                            {&offsets_, &other.offsets_}}) {
      *to = AlignedBytes(int64_t(from->size()));
      if (from->size() > 0) std::memcpy(to->as<char>(), from->as<char>(), from->size());
    }
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
               .table = spec.table};
    data_ = AlignedBytes(experts * cpu16::matrix_bytes(spec.kind, n, k));
    if (weight_.quantized()) {
      const int64_t scales = experts * cpu16::matrix_scales(n, k, spec.group_size);
      scales_ = AlignedBytes(scales * int64_t(dtype_size(spec.scales)));
      if (spec.zeros) zeros_ = AlignedBytes(scales);
      if (spec.offsets) offsets_ = AlignedBytes(int64_t(scales_.size()));
    }
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
  void point() {
    weight_.data = data_.as<void>();
    weight_.scales = weight_.quantized() ? scales_.as<void>() : nullptr;
    weight_.zeros = zeros_.size() > 0 ? zeros_.as<uint8_t>() : nullptr;
    weight_.offsets = offsets_.size() > 0 ? offsets_.as<void>() : nullptr;
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
    const float step = w.quantized() ? kDeviation / w.format().code_deviation : 0;
    for (int64_t group = 0; group < w.num_groups(); ++group) {
      const int64_t s = expert * cpu16::matrix_scales(w.n, w.k, w.group_size) +
                        cpu16::scale_index(n, group, w.num_groups());
      const float scale = step * rng.uniform(0.5f, 1.5f);
      store(scales_, s, scale);
      const int64_t codes = int64_t(code_mask(w.kind)) + 1;
      if (zeros_.size() > 0) zeros_.as<uint8_t>()[s] = uint8_t(rng.below(codes));
      // Negative, as that of codes whose smallest value is negative.
      if (offsets_.size() > 0) store(offsets_, s, -scale * rng.uniform(0, float(codes)));
    }
  }

  void store(AlignedBytes& numbers, int64_t i, float value) {
    if (weight_.scale_dtype == DType::kF32)
      numbers.as<float>()[i] = value;
    else
      numbers.as<bf16>()[i] = to_bf16(value);
  }

  static constexpr float kDeviation = 0.05f;

  Weight weight_;
  AlignedBytes data_, scales_, zeros_, offsets_;
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
