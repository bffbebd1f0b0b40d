// Activations as int16, or int8, with one scale per weight group, so that dot products with integer weights
// are exact inside a group whatever the order of addition.
#pragma once

#include <limits>

#include "cpu/generic/int_vec.h"
#include "cpu/kernels.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

// What numbers are divided by to become integers.
struct Step {
  float scale, inverse;  // inverse 0: the integers are 0
};
// absmax_bits: the largest magnitude. Inf or NaN gives the scale NaN, which poisons what is made of the integers; of
// (nearly) denormal numbers the inverse would overflow.
inline Step step_of(int32_t absmax_bits, float largest) {
  float absmax = 0;
  std::memcpy(&absmax, &absmax_bits, 4);
  if (absmax_bits >= 0x7f800000) return {std::numeric_limits<float>::quiet_NaN(), 0};
  return {absmax / largest, absmax > 1e-30f ? largest / absmax : 0};
}

// The group's values, its scale and its sum.   values: [size]; x: [size], size a multiple of 16
// Value: int16_t, or int8_t in the order of store_i8_nibble_order
template <class Value, int kLargestValue = std::numeric_limits<Value>::max()>
inline void quantize_group(Value* values, float& scale, int32_t& sum, const float* x, int64_t size) {
  constexpr float kLargest = kLargestValue;
  // Magnitudes compare as integers: exact in any order, and Inf and NaN come out on top.
  const IVec magnitude = IVec::set1(0x7fffffff);
  IVec top = IVec::zero();
  for (int64_t i = 0; i < size; i += kLanes) top = max(top, bits(Vec::load(x + i)) & magnitude);
  const auto [step, inverse] = step_of(reduce_max(top), kLargest);
  scale = step;
  sum = 0;
  if (inverse == 0) {
    std::memset(values, 0, size_t(size) * sizeof(Value));
    return;
  }
  IVec total = IVec::zero();
  for (int64_t i = 0; i < size; i += kLanes) {
    const IVec q = round_to_int(Vec::load(x + i) * Vec::set1(inverse));
    if constexpr (sizeof(Value) == 1)
      q.store_i8_nibble_order(values + i);
    else
      q.store_i16(values + i);
    total = total + q;
  }
  sum = reduce_add(total);
}

template <class Value>
inline void quantize_row_as(Value* rows, const QuantizedRows& q, int64_t row, const float* x, int64_t k,
                            int group_size) {
  Value* values = rows + row * q.stride;
  float* scales = q.scales + row * q.groups;
  int32_t* sums = q.sums + row * q.groups;
  float* totals = q.totals + row * q.groups;
  for (int64_t g = 0; g < q.groups; ++g) {
    const int64_t begin = g * group_size;
    if (k - begin >= group_size) {
      quantize_group(values + begin, scales[g], sums[g], x + begin, group_size);
    } else {  // the last, partial group
      alignas(64) float padded[128] = {};
      std::memcpy(padded, x + begin, size_t(k - begin) * sizeof(float));
      quantize_group(values + begin, scales[g], sums[g], padded, group_size);
    }
    totals[g] = float(sums[g]) * scales[g];  // the sum is below 2^24: exact as a float
  }
}

inline void quantize_row(const QuantizedRows& q, int64_t row, const float* x, int64_t k, int group_size) {
  if (q.bytes)
    quantize_row_as(q.bytes, q, row, x, k, group_size);
  else
    quantize_row_as(q.values, q, row, x, k, group_size);
}

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
