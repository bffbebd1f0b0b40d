// Random ready codes of any kind of weight, to be imported into the engine file of a tiny model.
#pragma once

#include <vector>

#include "format/engine_writer.h"
#include "ops/cases.h"
#include "ops/random_weights.h"
#include "weights/sample_weights.h"

namespace llama4rt::test {

inline Weight spec_shape(const cases::WeightSpec& spec, int64_t experts, int64_t n, int64_t k) {
  Weight w = weight_shape(spec.kind, experts, n, k, spec.group_size, spec.scales);
  w.table = spec.table;
  return w;
}

// Rows of codes whose values have about mean 0 and deviation sigma. Scales differ from group to group by up to two.
class TinyCodes {
 public:
  TinyCodes(const cases::WeightSpec& spec, uint32_t seed, int64_t rows, int64_t k, float sigma)
      : spec_(spec), rows_(rows) {
    Rng rng(seed);
    const Weight shape = spec_shape(spec, 1, rows, k);
    const WeightFormat& format = shape.format();
    const int64_t groups = shape.num_groups(), columns = ceil_div(k, int64_t(kFactorInputs));
    const uint32_t mask = code_mask(spec.kind);
    for (int64_t i = 0; i < rows * k; ++i)
      codes_.push_back(uint8_t(finite_code(spec.kind, uint32_t(rng.bits()) & mask)));
    // The middle of the codes is about 0: an offset is this many scales below it, and a zero point near it.
    const float middle = float(mask) / 2, step = sigma / format.code_deviation / kNumber;
    const int zero = spec.offsets ? int(mask / 4) : int(mask / 2);
    for (int64_t i = 0; i < rows * groups; ++i) {
      const float number = kNumber * rng.uniform(0.75f, 1.5f);
      put(scales_, has_factors(spec.scales) ? number : number * step);
      put(offsets_,
          has_factors(spec.scales) ? -number : -number * step * (middle - float(spec.zeros ? zero : 0)));
      zeros_.push_back(uint8_t(zero + rng.below(2)));
    }
    factors_.assign(size_t(rows * columns), step);
    offset_factors_.assign(size_t(rows * columns), step * (middle - float(spec.zeros ? zero : 0)));
  }
  CodeRows view() const {
    const bool factored = has_factors(spec_.scales);
    return {.codes = codes_.data(),
            .scales = scales_.data(),
            .zeros = spec_.zeros ? zeros_.data() : nullptr,
            .offsets = spec_.offsets ? offsets_.data() : nullptr,
            .factors = factored ? factors_.data() : nullptr,
            .offset_factors = factored && spec_.offsets ? offset_factors_.data() : nullptr,
            .rows = rows_};
  }

 private:
  static constexpr float kNumber = 32;

  void put(std::vector<unsigned char>& bytes, float value) const {
    const auto append = [&](const auto& number) {
      const auto* first = reinterpret_cast<const unsigned char*>(&number);
      bytes.insert(bytes.end(), first, first + sizeof number);
    };
    if (spec_.scales == DType::kF32) return append(value);
    if (spec_.scales == DType::kBF16) return append(to_bf16(value));
    if (spec_.scales == DType::kF16) return append(half_of(value));
    if (spec_.scales == DType::kI8) return append(int8_t(value));
    append(to_f8e4m3(value));
  }

  cases::WeightSpec spec_;
  int64_t rows_;
  std::vector<uint8_t> codes_, zeros_;
  std::vector<unsigned char> scales_, offsets_;
  std::vector<float> factors_, offset_factors_;
};

}  // namespace llama4rt::test
