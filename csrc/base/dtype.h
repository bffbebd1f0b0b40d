// Element types of tensors, their sizes, and conversions between fp32 and the small ones.
// Packed integer weights are not a DType: weights/weight.h describes them.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>

namespace llama4rt {

enum class DType : uint8_t { kF32, kBF16, kF16, kF8E4M3, kI64, kI32, kU8, kI8 };

struct bf16 {
  uint16_t bits;
};
struct fp16 {
  uint16_t bits;
};
// Sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinities, 0x7f and 0xff are NaN, at most 448.
struct f8e4m3 {
  uint8_t bits;
};

constexpr size_t dtype_size(DType dtype) {
  switch (dtype) {
    case DType::kI64:
      return 8;
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kBF16:
    case DType::kF16:
      return 2;
    case DType::kF8E4M3:
    case DType::kU8:
    case DType::kI8:
      return 1;
  }
  return 0;
}

// The spelling used by safetensors headers.
constexpr std::string_view dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "F32";
    case DType::kBF16:
      return "BF16";
    case DType::kF16:
      return "F16";
    case DType::kF8E4M3:
      return "F8_E4M3";
    case DType::kI64:
      return "I64";
    case DType::kI32:
      return "I32";
    case DType::kU8:
      return "U8";
    case DType::kI8:
      return "I8";
  }
  return "?";
}

constexpr float to_float(float x) { return x; }
constexpr float to_float(bf16 x) { return std::bit_cast<float>(uint32_t(x.bits) << 16); }

// Rounds to nearest, ties to even; NaN stays NaN (quiet).
constexpr bf16 to_bf16(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {uint16_t((u >> 16) | 0x40u)};
  return {uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

constexpr float to_float(fp16 x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000u) << 16;
  const uint32_t exponent = (x.bits >> 10) & 0x1fu;
  const uint32_t mantissa = x.bits & 0x3ffu;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24 is exact in fp32
    const float magnitude = float(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

constexpr float to_float(f8e4m3 x) {
  const uint32_t sign = uint32_t(x.bits & 0x80u) << 24;
  const uint32_t exponent = (x.bits >> 3) & 0xfu, mantissa = x.bits & 7u;
  if (exponent == 0)  // zero or subnormal
    return std::bit_cast<float>(std::bit_cast<uint32_t>(float(mantissa) * 0x1p-9f) | sign);
  if (exponent == 15 && mantissa == 7) return std::bit_cast<float>(sign | 0x7fc00000u);
  return std::bit_cast<float>(sign | ((exponent + 120u) << 23) | (mantissa << 20));
}

// Rounds to nearest, ties to even; what is larger than 448 becomes 448, infinity too; NaN stays NaN.
constexpr f8e4m3 to_f8e4m3(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x), sign = (u >> 24) & 0x80u, magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {uint8_t(sign | 0x7fu)};
  if (magnitude >= 0x43e00000u) return {uint8_t(sign | 0x7eu)};  // 448 and above
  if (magnitude < 0x3c800000u) {                                 // below 2^-6: multiples of 2^-9
    // The sum's last place is 2^-9 of x, so the addition rounds as asked.
    const float sum = std::bit_cast<float>(magnitude) + 0x1p14f;
    return {uint8_t(sign | (std::bit_cast<uint32_t>(sum) & 0xfu))};
  }
  const uint32_t rounded = magnitude + 0x7ffffu + ((magnitude >> 20) & 1u);
  return {uint8_t(sign | ((rounded >> 20) - (120u << 3)))};
}

}  // namespace llama4rt
