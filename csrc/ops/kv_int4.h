// int4 keys and values: x[d] ~ (2 c[d] - 15) * scale, codes 0 <= c[d] <= 15, of rotated heads (kv_rotation.h); one
// scale for the keys and one for the values of each token and KV head. The sixteen values are odd multiples of the scale,
// so that they lie evenly on both sides of zero. Devices store the same codes and scales, in their own order.
#pragma once

#include "ops/kv_int8.h"

namespace llama4rt {

inline constexpr int kKvInt4Zero = 15;  // a code stands for twice itself less this

// A head with Inf or NaN gets the scale NaN, one of (nearly) denormal numbers the scale zero.
// codes, x: [dim]; x is rotated
inline void quantize_kv_int4(uint8_t* codes, float& scale, const float* x, int64_t dim) {
  float absmax = 0;
  bool finite = true;
  for (int64_t d = 0; d < dim; ++d) {
    finite = finite && std::isfinite(x[d]);
    absmax = std::max(absmax, std::abs(x[d]));
  }
  const bool tiny = !(absmax > 1e-30f);
  scale = !finite ? std::numeric_limits<float>::quiet_NaN() : tiny ? 0 : absmax / 16.0f;
  const float inverse = finite && !tiny ? 8.0f / absmax : 0;
  // The largest number lies half a step outside of the largest code.
  for (int64_t d = 0; d < dim; ++d)
    codes[d] = uint8_t(inverse == 0 ? 7.0f : std::min(std::floor(x[d] * inverse) + 8.0f, 15.0f));
}

}  // namespace llama4rt
