// bf16, fp16 and fp8 conversions, for every bit pattern.
#include "base/dtype.h"

#include <cstring>

#include "test.h"

namespace llama4rt {
namespace {

// The value of an IEEE-like pattern by its definition, independent of the code under test.
double by_definition(uint32_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const uint32_t mantissa = bits & ((1u << mantissa_bits) - 1);
  const int exponent = int(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const double sign = bits >> (mantissa_bits + exponent_bits) & 1 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1)
    return mantissa ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(double(mantissa), 1 - bias - mantissa_bits);
  return sign *
         std::ldexp(double(mantissa) + std::ldexp(1.0, mantissa_bits), exponent - bias - mantissa_bits);
}

bool same_value(double a, double b) {
  return std::isnan(a) ? std::isnan(b) : a == b && std::signbit(a) == std::signbit(b);
}

}  // namespace

TEST(every_bf16_pattern_means_what_ieee_says) {
  for (uint32_t bits = 0; bits < 65536; ++bits)
    CHECK(same_value(to_float(bf16{uint16_t(bits)}), by_definition(bits, 8, 7)));
}

TEST(every_fp16_pattern_means_what_ieee_says) {
  for (uint32_t bits = 0; bits < 65536; ++bits)
    CHECK(same_value(to_float(fp16{uint16_t(bits)}), by_definition(bits, 5, 10)));
}

TEST(every_bf16_survives_the_round_trip) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = to_float(bf16{uint16_t(bits)});
    if (std::isnan(value))
      CHECK(std::isnan(to_float(to_bf16(value))));
    else
      CHECK_EQ(to_bf16(value).bits, bits);
  }
}

TEST(bf16_rounds_to_nearest_even) {
  // Between each pair of neighbours: just below the middle, the middle, just above it.
  for (uint32_t bits = 0; bits < 0x7f80; ++bits) {
    const uint32_t middle = bits << 16 | 0x8000u;
    const auto rounded = [](uint32_t pattern) {
      return uint32_t(to_bf16(std::bit_cast<float>(pattern)).bits);
    };
    CHECK_EQ(rounded(middle - 1), bits);
    CHECK_EQ(rounded(middle), bits + (bits & 1));
    CHECK_EQ(rounded(middle + 1), bits + 1);
    CHECK_EQ(rounded(middle | 0x80000000u), (bits + (bits & 1)) | 0x8000u);
  }
}

TEST(bf16_keeps_nan_and_infinity) {
  CHECK(std::isnan(to_float(to_bf16(std::nanf("")))));
  // A NaN whose payload lies only in the bits that are cut off must not become infinity.
  CHECK(std::isnan(to_float(to_bf16(std::bit_cast<float>(0x7f800001u)))));
  CHECK(std::isnan(to_float(to_bf16(std::bit_cast<float>(0xffffffffu)))));
  CHECK_EQ(to_bf16(std::numeric_limits<float>::infinity()).bits, 0x7f80);
  CHECK_EQ(to_bf16(std::numeric_limits<float>::max()).bits, 0x7f80);  // rounds up, as torch does
}

TEST(every_e4m3_pattern_means_what_the_format_says) {
  for (uint32_t bits = 0; bits < 256; ++bits) {
    const uint32_t exponent = (bits >> 3) & 15, mantissa = bits & 7;
    const double sign = bits >= 128 ? -1 : 1;
    const double magnitude = exponent == 0 ? std::ldexp(double(mantissa), -9)
                                           : std::ldexp(1.0 + double(mantissa) / 8, int(exponent) - 7);
    const double want = exponent == 15 && mantissa == 7 ? std::nan("") : sign * magnitude;
    CHECK(same_value(to_float(f8e4m3{uint8_t(bits)}), want));
    CHECK(same_value(to_float(to_f8e4m3(to_float(f8e4m3{uint8_t(bits)}))), want));
  }
}

TEST(e4m3_rounds_to_nearest_even_and_saturates) {
  const auto rounded = [](float x) { return uint32_t(to_f8e4m3(x).bits); };
  for (uint32_t bits = 0; bits < 0x7e; ++bits) {  // between each pair of neighbours
    const float low = to_float(f8e4m3{uint8_t(bits)}), high = to_float(f8e4m3{uint8_t(bits + 1)});
    const float middle = (low + high) / 2;
    CHECK_EQ(rounded(std::nextafter(middle, 0.0f)), bits);
    CHECK_EQ(rounded(middle), bits + (bits & 1));
    CHECK_EQ(rounded(std::nextafter(middle, 1e9f)), bits + 1);
    CHECK_EQ(rounded(-middle), (bits + (bits & 1)) | 0x80u);
  }
  for (const float large : {448.0f, 449.0f, 464.0f, 465.0f, 1e30f, std::numeric_limits<float>::infinity()}) {
    CHECK_EQ(rounded(large), 0x7eu);
    CHECK_EQ(rounded(-large), 0xfeu);
  }
  CHECK(std::isnan(to_float(to_f8e4m3(std::nanf("")))));
}

TEST(sizes_and_names) {
  CHECK_EQ(dtype_size(DType::kF32), 4u);
  CHECK_EQ(dtype_size(DType::kBF16), 2u);
  CHECK_EQ(dtype_size(DType::kF16), 2u);
  CHECK_EQ(dtype_size(DType::kF8E4M3), 1u);
  CHECK_EQ(dtype_size(DType::kI64), 8u);
  CHECK_EQ(dtype_size(DType::kI32), 4u);
  CHECK_EQ(dtype_size(DType::kU8), 1u);
  CHECK_EQ(dtype_size(DType::kI8), 1u);
  CHECK_EQ(dtype_name(DType::kBF16), "BF16");
  CHECK_EQ(dtype_name(DType::kF8E4M3), "F8_E4M3");
  CHECK_EQ(dtype_name(DType::kU8), "U8");
}

}  // namespace llama4rt
