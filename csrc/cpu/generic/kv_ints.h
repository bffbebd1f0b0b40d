// The integers that attention multiplies where keys and values are integers with a scale per token (ops/kv_int8.h,
// ops/kv_int16.h): a query or a group of softmax weights becomes int16, and sums of products are exact.
//
// One of these per cache format has:
//   kPerWord       neighbouring numbers of a key in a 32-bit word of a line
//   kValuesPerWord neighbouring keys in a word of a line of values, each of kLineVecs dimensions 16 apart
//   kZero          what the integers are too large by, after they are multiplied with kFactor
//   step           what numbers are divided by to become int16
//   Line           a line of keys, made ready; dot(sum, x): adds its products with kPerWord numbers at x
//   ValueLine      a line of values; dot<i>(sum, x): of its i-th 16 dimensions with kValuesPerWord numbers at x
#pragma once

#include <algorithm>
#include <limits>

#include "cpu/generic/dot.h"
#include "cpu/generic/quantize_row.h"
#include "ops/kv_int16.h"
#include "ops/kv_int4.h"
#include "ops/kv_int8.h"
#include "ops/kv_rotation.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

// What is summed up of numbers that shall share a scale.
struct Extent {
  IVec top = IVec::zero();  // magnitudes as bits: Inf and NaN come out on top
  Vec sum = Vec::zero();    // of magnitudes
  LLAMA4RT_INLINE void add(Vec x) {
    const IVec magnitude = bits(x) & IVec::set1(0x7fffffff);
    top = max(top, magnitude);
    sum = sum + from_bits(magnitude);
  }
};

// A line of values that is one of keys.
template <class Line>
struct OneVec : Line {
  template <int>
  LLAMA4RT_INLINE IVec dot(IVec sum, const int16_t* x) const {
    return Line::dot(sum, x);
  }
};

// Keys and values of eight bits: what they meet has sixteen, so that its rounding is nothing beside theirs.
struct Int8Ints {
  static constexpr KvKind kKind = KvKind::kInt8;
  static constexpr int kPerWord = 4, kValuesPerWord = 4, kLineVecs = 1, kFactor = 1;
  static constexpr int kZero = weight_format(WeightKind::kInt8).zero;
  static Step step(const Extent& e) { return step_of(reduce_max(e.top), 32767.0f); }
  struct Line {
    IVec pair[2];
    void load(const uint8_t* p) {
      const LinePairs<WeightKind::kInt8> pairs(p);
      pair[0] = pairs.pair[0];
      pair[1] = pairs.pair[1];
    }
    LLAMA4RT_INLINE IVec dot(IVec sum, const int16_t* x) const {
      return dot_pairs(dot_pairs(sum, pair[0], x), pair[1], x + 2);
    }
  };
  using ValueLine = OneVec<Line>;
};

// Of sixteen bits: as fine as exact sums allow.
struct Int16Ints {
  static constexpr KvKind kKind = KvKind::kInt16;
  static constexpr int kPerWord = 2, kValuesPerWord = 2, kLineVecs = 1, kFactor = 1;
  static constexpr int kZero = 0;
  static Step step(const Extent& e) {
    const Step step = step_of(reduce_max(e.top), 32767.0f);
    if (step.inverse == 0) return step;
    const float sum = reduce_add(e.sum), most = float(kKvInt16MostSum);
    // A sum of finite numbers that is infinite is one of numbers near the end of fp32's range.
    if (!(sum <= std::numeric_limits<float>::max())) return {std::numeric_limits<float>::quiet_NaN(), 0};
    return {std::max(step.scale, sum / most), std::min(step.inverse, most / sum)};
  }
  struct Line {
    IVec line;
    void load(const uint8_t* p) { line = IVec::load(p); }
    LLAMA4RT_INLINE IVec dot(IVec sum, const int16_t* x) const { return dot_pairs(sum, line, x); }
  };
  using ValueLine = OneVec<Line>;
};

// Of four bits, whose integers are twice the codes less 15.
struct Int4Ints {
  static constexpr KvKind kKind = KvKind::kInt4;
  static constexpr int kPerWord = 8, kValuesPerWord = 4, kLineVecs = 2, kFactor = 2;
  static constexpr int kZero = kKvInt4Zero;
  static Step step(const Extent& e) { return Int8Ints::step(e); }
  struct Line {
    IVec pair[4];
    void load(const uint8_t* p) {
      const IVec low = IVec::set1(0x000f000f), words = IVec::load(p);
      pair[0] = words & low;
      pair[1] = shift_right<4>(words) & low;
      pair[2] = shift_right<8>(words) & low;
      pair[3] = shift_right<12>(words) & low;
    }
    LLAMA4RT_INLINE IVec dot(IVec sum, const int16_t* x) const {
      for (int i = 0; i < 4; ++i) sum = dot_pairs(sum, pair[i], x + 2 * i);
      return sum;
    }
  };
  struct ValueLine : Line {
    // Bits 0 and 8 of each half word are two keys of the first dimensions, 4 and 12 of the second.
    template <int i>
    LLAMA4RT_INLINE IVec dot(IVec sum, const int16_t* x) const {
      return dot_pairs(dot_pairs(sum, this->pair[i], x), this->pair[i + 2], x + 2);
    }
  };
};

// A query as integers.   values: [dim]; dim: a multiple of 16
template <class Ints>
inline void quantize_query(int16_t* values, float& scale, int32_t& sum, const float* x, int64_t dim) {
  alignas(64) float rotated[kMaxIntHeadDim];
  if constexpr (kv_format(Ints::kKind).rotated) {
    std::memcpy(rotated, x, size_t(dim) * sizeof(float));
    rotate_head(rotated, dim);
    x = rotated;
  }
  Extent extent;
  for (int64_t i = 0; i < dim; i += kLanes) extent.add(Vec::load(x + i));
  const Step step = Ints::step(extent);
  scale = step.scale;
  IVec total = IVec::zero();
  for (int64_t i = 0; i < dim; i += kLanes) {
    IVec q = IVec::zero();
    if (step.inverse != 0) q = round_to_int(Vec::load(x + i) * Vec::set1(step.inverse));
    q.store_i16(values + i);
    total = total + q;
  }
  sum = reduce_add(total);
}

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
