// int8 keys and values: x[d] ~ q[d] * scale, -127 <= q[d] <= 127, one scale for the keys and one for
// the values of each token and KV head. Devices store the same integers and scales, in their own order.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace llama4rt {

inline constexpr int64_t kMaxIntHeadDim = 256;  // of every cache of integers: sums stay below 2^31
inline constexpr int kKvInt8Largest = 127;

// Rounds to nearest, ties to even. A head with Inf or NaN gets the scale NaN, one of (nearly) denormal
// numbers becomes zero, as its inverse would overflow.   q, x: [dim]
template <int kLargest, class Number>
inline void quantize_kv_as(Number* q, float& scale, const float* x, int64_t dim) {
  float absmax = 0;
  bool finite = true;
  for (int64_t d = 0; d < dim; ++d) {
    finite = finite && std::isfinite(x[d]);
    absmax = std::max(absmax, std::abs(x[d]));
  }
  scale = finite ? absmax / float(kLargest) : std::numeric_limits<float>::quiet_NaN();
  const float inverse = finite && absmax > 1e-30f ? float(kLargest) / absmax : 0;
  for (int64_t d = 0; d < dim; ++d) q[d] = inverse == 0 ? Number(0) : Number(std::nearbyint(x[d] * inverse));
}
inline void quantize_kv(int8_t* q, float& scale, const float* x, int64_t dim) {
  quantize_kv_as<kKvInt8Largest>(q, scale, x, dim);
}

}  // namespace llama4rt
