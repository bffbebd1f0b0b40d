#include "weights/quantize.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/checked_math.h"
#include "test.h"
#include "weights/sample_weights.h"

namespace llama4rt::test {
namespace {

// Squared error of the plain rule: this scale, nearest code.
double plain_error(const float* w, int64_t count, float scale) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double q = std::clamp(std::nearbyint(double(w[i]) / double(scale)), -8.0, 7.0);
    const double e = double(w[i]) - q * double(scale);
    sum += e * e;
  }
  return sum;
}

double error_of(const float* w, int64_t count, const std::vector<uint8_t>& codes, int zero, float scale) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double e = double(w[i]) - (int(codes[size_t(i)]) - zero) * double(scale);
    sum += e * e;
  }
  return sum;
}

std::vector<float> values_of_shape(int shape, size_t count, uint32_t seed) {
  std::vector<float> w = gaussian(count, seed, 1.0f);
  for (float& v : w) {
    if (shape == 1) v = std::tanh(v);                 // no tails
    if (shape == 2) v = v * v * v;                    // heavy tails
    if (shape == 3) v = std::fabs(v);                 // one sign
    if (shape == 4) v = std::fabs(v) > 2 ? v : 0.0f;  // sparse
    if (shape == 5) v *= 1e-30f;
    if (shape == 6) v *= 1e37f;
  }
  return w;
}

}  // namespace

TEST(int4_is_never_worse_than_absmax_rules) {
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    for (int shape = 0; shape < 7; ++shape) {
      for (const int64_t count : {8, 32, 40, 64, 128}) {
        for (uint32_t seed = 0; seed < 40; ++seed) {
          SCOPE("shape ", shape, ", group ", count, ", seed ", seed);
          const std::vector<float> w = values_of_shape(shape, size_t(count), seed);
          std::vector<uint8_t> codes(size_t(round_up(count, kGroupPadding)));
          GroupError error;
          const float scale = quantize_int4_group(w.data(), count, dtype, codes.data(), error);
          float absmax = 0;
          double squares = 0;
          for (const float v : w) {
            absmax = std::max(absmax, std::fabs(v));
            squares += double(v) * double(v);
          }
          if (absmax == 0) continue;
          const auto rounded = [&](float s) { return dtype == DType::kBF16 ? to_float(to_bf16(s)) : s; };
          CHECK_EQ(rounded(scale), scale);
          const double mine = error_of(w.data(), count, codes, 8, scale);
          const double others = std::min(plain_error(w.data(), count, rounded(absmax / 8)),
                                         plain_error(w.data(), count, rounded(absmax / 7.5f)));
          CHECK(mine <= others * (1 + 1e-5) + 1e-13 * squares);  // fp32 noise of exact fits
          CHECK(std::all_of(codes.begin(), codes.end(), [](uint8_t q) { return q <= 15; }));
          if (shape != 5 && shape != 6) CHECK_CLOSE(error.squared, mine, 1e-4 * mine + 1e-13 * squares);
        }
      }
    }
  }
}

TEST(int4_error_on_gaussian_weights) {
  const struct {
    int64_t group;
    double worst_rms;  // measured 0.0812, 0.0904, 0.0962
  } kCases[] = {{32, 0.0825}, {64, 0.0915}, {128, 0.0972}};
  for (const auto& c : kCases) {
    const std::vector<float> w = gaussian(size_t(c.group) * 2000, 5, 0.02f);
    std::vector<uint8_t> codes(static_cast<size_t>(c.group));
    GroupError error;
    double squares = 0;
    for (const float v : w) squares += double(v) * double(v);
    for (size_t at = 0; at < w.size(); at += size_t(c.group))
      quantize_int4_group(&w[at], c.group, DType::kBF16, codes.data(), error);
    CHECK(std::sqrt(error.squared / squares) < c.worst_rms);
  }
}

TEST(int8_is_within_half_a_step) {
  for (int shape = 0; shape < 6; ++shape) {
    for (const int64_t count : {8, 32, 128}) {
      const std::vector<float> w = values_of_shape(shape, size_t(count), uint32_t(shape));
      std::vector<uint8_t> codes(static_cast<size_t>(count));
      GroupError error;
      const float scale = quantize_int8_group(w.data(), count, DType::kBF16, codes.data(), error);
      SCOPE("shape ", shape, ", group ", count, ", scale ", scale);
      for (int64_t i = 0; i < count; ++i)
        // bf16 may round the scale down by 2^-9, which the largest codes feel.
        CHECK(std::fabs(w[size_t(i)] - float(codes[size_t(i)] - 128) * scale) <= scale * 0.751f);
    }
  }
}

// Half a step of three bits of mantissa, or of the smallest numbers, whose step is 2^-9; and of the scale's
// bf16.
TEST(fp8_is_within_half_a_step_and_never_nan) {
  for (int shape = 0; shape < 6; ++shape) {
    for (const int64_t count : {8, 32, 128}) {
      const std::vector<float> w = values_of_shape(shape, size_t(count), uint32_t(shape));
      std::vector<uint8_t> codes(static_cast<size_t>(count));
      GroupError error;
      const float scale = quantize_fp8_group(w.data(), count, DType::kBF16, codes.data(), error);
      SCOPE("shape ", shape, ", group ", count, ", scale ", scale);
      float worst = 0;
      for (int64_t i = 0; i < count; ++i) {
        const float v = w[size_t(i)], e = std::fabs(v - to_float(f8e4m3{codes[size_t(i)]}) * scale);
        CHECK(e <= std::max(std::fabs(v) / 16, scale * 0x1p-10f) * 1.001f);
        worst = std::max(worst, e);
      }
      CHECK_EQ(error.max_abs, worst);
    }
  }
  // Ties go to even, what a rounded-down scale puts above 448 saturates.
  const std::vector<float> w = {448, -448, 1.0625f, 1.1875f, 0x1p-10f, 0x3p-10f, 0, -17};
  std::vector<uint8_t> codes(8);
  GroupError error;
  CHECK_EQ(quantize_fp8_group(w.data(), 8, DType::kBF16, codes.data(), error), 1.0f);
  const uint8_t expected[] = {0x7e, 0xfe, 0x38, 0x3a, 0x00, 0x02, 0x00, 0xd8};
  for (size_t i = 0; i < 8; ++i) CHECK_EQ(int(codes[i]), int(expected[i]));
  std::vector<float> large(8, 448 * 1.003f);  // the scale becomes 1
  CHECK_EQ(quantize_fp8_group(large.data(), 8, DType::kBF16, codes.data(), error), 1.0f);
  CHECK_EQ(int(codes[5]), 0x7e);
}

TEST(special_groups) {
  GroupError error;
  std::vector<uint8_t> codes(8);
  const std::vector<float> zeros(8, 0.0f), tiny(8, 1e-42f);
  CHECK_EQ(quantize_int4_group(zeros.data(), 8, DType::kBF16, codes.data(), error), 0.0f);
  CHECK_EQ(int(codes[3]), 8);
  CHECK_EQ(quantize_int8_group(zeros.data(), 8, DType::kBF16, codes.data(), error), 0.0f);
  CHECK_EQ(int(codes[3]), 128);
  CHECK_EQ(quantize_int4_group(tiny.data(), 8, DType::kF32, codes.data(), error), 0.0f);
  CHECK_EQ(quantize_int8_group(tiny.data(), 8, DType::kF32, codes.data(), error), 0.0f);
  CHECK_EQ(quantize_fp8_group(zeros.data(), 8, DType::kBF16, codes.data(), error), 0.0f);
  CHECK_EQ(int(codes[3]), 0);
  CHECK_EQ(quantize_fp8_group(tiny.data(), 8, DType::kF32, codes.data(), error), 0.0f);
  CHECK_CLOSE(error.max_abs, 1e-42, 1e-44);

  // Values already on a grid come back exactly, whichever side the long one is.
  for (const float step : {0.25f, -0.25f}) {
    std::vector<float> grid(16);
    for (int i = 0; i < 16; ++i) grid[size_t(i)] = float(i - 8) * step;
    std::vector<uint8_t> out(16);
    GroupError none;
    const float scale = quantize_int4_group(grid.data(), 16, DType::kBF16, out.data(), none);
    CHECK_EQ(scale, step);
    for (int i = 0; i < 16; ++i) CHECK_EQ(int(out[size_t(i)]), i);
    CHECK_EQ(none.squared, 0.0);
  }
}

}  // namespace llama4rt::test
