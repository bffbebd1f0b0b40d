// The table of weight formats, and what is asked of formats that no release has yet.
#include "weights/weight_formats.h"

#include <cmath>
#include <string>

#include "test.h"
#include "weights/layout.h"

namespace llama4rt::test {

TEST(every_kind_is_found_by_its_name_alone) {
  for (const WeightFormat& format : kWeightFormats) CHECK(find_weight_kind(format.name) == format.kind);
  CHECK(!find_weight_kind("int"));
  CHECK(!find_weight_kind(""));
}

TEST(factors_that_a_gpu_does_not_take_are_refused) {
  Weight w{.kind = WeightKind::kInt4,
           .layout = Layout::kCudaTile,
           .n = 16,
           .k = 512,
           .group_size = 32,
           .scale_dtype = DType::kI8};
  CHECK_EQ(weight_refusal(w), "");
  w.factor_dtype = DType::kF16;
  CHECK_EQ(
      weight_refusal(w),
      "\"int4\" weights with factors of halves are for CPUs; a GPU takes them in F32, one of 256 inputs");
  w.factor_dtype = DType::kF32;
  w.row_factors = true;
  CHECK(weight_refusal(w).starts_with("\"int4\" weights with factors of rows are for CPUs"));
  w.k = 256;
  CHECK_EQ(weight_refusal(w), "");  // a row has one factor either way
  w.k = 512;
  w.layout = Layout::kCpu16;
  CHECK_EQ(weight_refusal(w), "");
}

TEST(layouts_of_a_gpu) {
  CHECK(is_gpu_layout(Layout::kCudaTile));
  CHECK(!is_gpu_layout(Layout::kCpu16) && !is_gpu_layout(Layout::kRowMajor));
}

// Codes of a float kind, drawn uniformly, must not be NaN or infinity; finite ones stay as they are.
TEST(finite_codes_are_the_nearest_below) {
  CHECK_EQ(finite_code(WeightKind::kBF16, 0x7f80), 0x7f7fu);  // infinity: the largest number
  CHECK_EQ(finite_code(WeightKind::kBF16, 0xffff), 0xff7fu);  // a NaN
  for (const WeightFormat& format : kWeightFormats)
    for (uint32_t code = 0; code <= code_mask(format.kind); ++code) {
      const float value = code_value(format.kind, code, format.zero);
      CHECK(std::isfinite(code_value(format.kind, finite_code(format.kind, code), format.zero)));
      if (std::isfinite(value)) CHECK_EQ(finite_code(format.kind, code), code);
    }
}

// The table's deviation of uniform finite codes, which random weights are scaled by.
TEST(the_deviation_of_codes_is_what_the_table_says) {
  for (const WeightFormat& format : kWeightFormats) {
    if (!format.is_scaled) continue;
    SCOPE(format.name);
    double sum = 0, squares = 0;
    const uint32_t codes = code_mask(format.kind) + 1;
    for (uint32_t code = 0; code < codes; ++code) {
      const double value = code_value(format.kind, finite_code(format.kind, code), format.zero);
      sum += value;
      squares += value * value;
    }
    const double mean = sum / codes, deviation = std::sqrt(squares / codes - mean * mean);
    CHECK_CLOSE(deviation, double(format.code_deviation), 0.01 * deviation);
  }
}

}  // namespace llama4rt::test
