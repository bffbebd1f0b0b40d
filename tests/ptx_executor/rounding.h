// Roundings that C++ has no word for. Exact sums of doubles are rounded to odd first, so that the second rounding, to a
// narrower type, gives what one rounding would have given.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace llama4rt::ptx_executor {

// Every NaN that an instruction of PTX makes.
constexpr uint32_t kNaN32 = 0x7fffffffu;
constexpr uint16_t kNaN16 = 0x7fffu;

inline float canonical(float x) { return x == x ? x : std::bit_cast<float>(kNaN32); }

// x + y, where what does not fit sets the last bit.
inline double sum_to_odd(double x, double y) {
  const double sum = x + y;
  const double y_part = sum - x, error = (x - (sum - y_part)) + (y - y_part);  // exact: Knuth's two-sum
  auto bits = std::bit_cast<uint64_t>(sum);
  // Towards the exact value when that lies below |sum|, then odd; NaN and infinity have no error to compare.
  const bool inexact = error != 0.0 && error == error;
  const bool towards_zero = inexact && ((error < 0.0) != (sum < 0.0)) && (bits & 1u) == 0;
  bits -= towards_zero ? 1 : 0;
  bits |= inexact ? 1 : 0;
  return std::bit_cast<double>(bits);
}

// x * y + z, rounded once to float.
inline float fused(float x, float y, float z) {
  return canonical(float(sum_to_odd(double(x) * double(y), double(z))));
}

// To bf16, ties to even; from a double that is exact or rounded to odd.
inline uint16_t to_bf16_once(double x) {
  if (!(x == x)) return kNaN16;
  // Through float, rounded to odd: its 24 bits are more than twice the 8 wanted.
  auto narrow = float(x);
  auto bits = std::bit_cast<uint32_t>(narrow);
  if (double(narrow) != x && std::isfinite(narrow)) {
    if (std::abs(double(narrow)) > std::abs(x)) --bits;
    bits |= 1u;
  } else if (std::isinf(narrow) && !std::isinf(x)) {
    bits = (bits & 0x80000000u) | 0x7f7fffffu;
  }
  const uint32_t rounded = bits + 0x7fffu + (bits >> 16 & 1u);
  return uint16_t(rounded >> 16);
}
inline float from_bf16(uint32_t half) { return std::bit_cast<float>(half << 16); }

}  // namespace llama4rt::ptx_executor
