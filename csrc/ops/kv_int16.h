// int16 keys and values: x[d] ~ q[d] * scale, -8191 <= q[d] <= 8191, one scale for the keys and one for the values of
// each token and KV head. The bits that fifteen more than eight leave are not all used: sums of D products with
// numbers of a query, whose magnitudes together are at most kKvInt16MostSum, must stay below 2^31.
#pragma once

#include "ops/kv_int8.h"

namespace llama4rt {

inline constexpr int kKvInt16Largest = 8191;
inline constexpr int64_t kKvInt16MostSum = 262'000;
// Rounding adds at most half to each of the numbers.
static_assert((kKvInt16MostSum + kMaxIntHeadDim / 2 + 2) * kKvInt16Largest < (int64_t(1) << 31));

// As quantize_kv().   q, x: [dim]
inline void quantize_kv_int16(int16_t* q, float& scale, const float* x, int64_t dim) {
  quantize_kv_as<kKvInt16Largest>(q, scale, x, dim);
}

}  // namespace llama4rt
