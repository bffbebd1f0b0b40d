// Scales and offsets of any type, as fp32.
#pragma once

#include "cuda/device/general_args.cuh"
#include "cuda/ptx/math.cuh"
#include "cuda/ptx/rounded.cuh"
#include "cuda/simt.h"

namespace llama4rt::cuda {

inline constexpr int kFactorColumns = 256;  // that share a factor (weights/weight.h)

struct BF16Number {
  static LLAMA4RT_DEVICE float at(const unsigned char* p, int64_t i) {
    return ptx::float_from_bits(uint32_t(reinterpret_cast<const uint16_t*>(p)[i]) << 16);
  }
};
struct F16Number {
  static LLAMA4RT_DEVICE float at(const unsigned char* p, int64_t i) {
    return ptx::float_from_half(reinterpret_cast<const uint16_t*>(p)[i]);
  }
};
struct F32Number {
  static LLAMA4RT_DEVICE float at(const unsigned char* p, int64_t i) {
    return reinterpret_cast<const float*>(p)[i];
  }
};
struct I8Number {
  static LLAMA4RT_DEVICE float at(const unsigned char* p, int64_t i) { return float(int8_t(p[i])); }
};
struct F8Number {
  static LLAMA4RT_DEVICE float at(const unsigned char* p, int64_t i) {
    // Exponent and mantissa in their places; the exponent's bias is 120 too small.
    const uint32_t code = p[i];
    return ptx::mul(ptx::float_from_bits((code & 0x7fu) << 20 | (code & 0x80u) << 24), 0x1p120f);
  }
};

// body(number): one branch for all that is read in it.
template <class Body>
LLAMA4RT_DEVICE void with_number_type(NumberType type, const Body& body) {
  switch (type) {
    case NumberType::kBF16:
      return body(BF16Number());
    case NumberType::kF16:
      return body(F16Number());
    case NumberType::kF32:
      return body(F32Number());
    case NumberType::kI8:
      return body(I8Number());
    case NumberType::kF8:
      return body(F8Number());
  }
}

}  // namespace llama4rt::cuda
