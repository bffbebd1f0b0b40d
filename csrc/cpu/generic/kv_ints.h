// The integers that attention multiplies where keys and values are integers with a scale per token (ops/kv_int8.h,
// ops/kv_int16.h): how a query or a group of softmax weights becomes integers, and the product of a line of keys or
// values with some of them. Sums are exact, so tables may multiply in the way that suits them.
//
// One of these per cache format and way to multiply has:
//   Number          a query's integer, or a weight's, in memory
//   kPerWord        neighbouring numbers of a key (or keys of a dimension) in a 32-bit word of a line
//   store           sixteen integers in the order in which words hold them
//   query_step, weight_step   what numbers are divided by
//   Keys, Values    a line, made ready; dot(sum, x): adds its products with kPerWord numbers at x
//   kZero           what the integers of Keys are too large by; kValueZero: of Values
#pragma once

#include <algorithm>
#include <limits>
#include <type_traits>

#include "cpu/generic/dot.h"
#include "cpu/generic/quantize_row.h"
#include "ops/kv_int16.h"
#include "ops/kv_int8.h"

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

// int8: eight bits for a query, and for weights, which are never negative, all eight without a sign.
struct Int8Steps {
  static constexpr KvKind kKind = KvKind::kInt8;
  static constexpr int kPerWord = 4;
  static Step query_step(const Extent& e) { return step_of(reduce_max(e.top), float(kKvInt8Largest)); }
  static Step weight_step(const Extent& e) { return step_of(reduce_max(e.top), 255.0f); }
};

// int16: as fine as exact sums allow.
struct Int16Steps {
  static constexpr KvKind kKind = KvKind::kInt16;
  static constexpr int kPerWord = 2;
  static Step query_step(const Extent& e) {
    const Step step = step_of(reduce_max(e.top), 32767.0f);
    if (step.inverse == 0) return step;
    const float sum = reduce_add(e.sum), most = float(kKvInt16MostSum);
    // A sum of finite numbers that is infinite is one of numbers near the end of fp32's range.
    if (!(sum <= std::numeric_limits<float>::max())) return {std::numeric_limits<float>::quiet_NaN(), 0};
    return {std::max(step.scale, sum / most), std::min(step.inverse, most / sum)};
  }
  static Step weight_step(const Extent& e) { return query_step(e); }
};

// Bytes times bytes, where an instruction adds four products exactly.
struct ByteInts : Int8Steps {
  using Number = int8_t;
  static constexpr int kZero = weight_format(WeightKind::kInt8).zero, kValueZero = 0;
  static void store(Number* p, IVec x) { x.store_i8_pair_order(p); }
  struct Keys {
    IVec line;
    void load(const uint8_t* p) { line = IVec::load(p); }
    LLAMA4RT_INLINE IVec dot(IVec sum, const Number* x) const {
      return dot_bytes(sum, line, IVec::set1(load_i32(x)));
    }
  };
  struct Values {
    IVec line;  // q + 128 is q with its sign bit turned over
    void load(const uint8_t* p) { line = IVec::load(p) ^ IVec::set1(int32_t(0x80808080u)); }
    LLAMA4RT_INLINE IVec dot(IVec sum, const Number* x) const {
      return dot_bytes(sum, IVec::set1(load_i32(x)), line);
    }
  };
};

// The same integers as int16, where bytes would be cut.
struct WideByteInts : Int8Steps {
  using Number = int16_t;
  static constexpr int kZero = weight_format(WeightKind::kInt8).zero, kValueZero = kZero;
  static void store(Number* p, IVec x) { x.store_i16(p); }
  struct Keys {
    IVec pair[2];
    void load(const uint8_t* p) {
      const LinePairs<WeightKind::kInt8> pairs(p);
      pair[0] = pairs.pair[0];
      pair[1] = pairs.pair[1];
    }
    LLAMA4RT_INLINE IVec dot(IVec sum, const Number* x) const {
      return dot_pairs(dot_pairs(sum, pair[0], x), pair[1], x + 2);
    }
  };
  using Values = Keys;
};

struct WordInts : Int16Steps {
  using Number = int16_t;
  static constexpr int kZero = 0, kValueZero = 0;
  static void store(Number* p, IVec x) { x.store_i16(p); }
  struct Keys {
    IVec line;
    void load(const uint8_t* p) { line = IVec::load(p); }
    LLAMA4RT_INLINE IVec dot(IVec sum, const Number* x) const { return dot_pairs(sum, line, x); }
  };
  using Values = Keys;
};

using Int8Ints = std::conditional_t<kBytePairs, WideByteInts, ByteInts>;
using Int16Ints = WordInts;

// A query as integers.   values: [dim]; dim: a multiple of 16
template <class Ints>
inline void quantize_query(typename Ints::Number* values, float& scale, int32_t& sum, const float* x,
                           int64_t dim) {
  Extent extent;
  for (int64_t i = 0; i < dim; i += kLanes) extent.add(Vec::load(x + i));
  const Step step = Ints::query_step(extent);
  scale = step.scale;
  IVec total = IVec::zero();
  for (int64_t i = 0; i < dim; i += kLanes) {
    IVec q = IVec::zero();
    if (step.inverse != 0) q = round_to_int(Vec::load(x + i) * Vec::set1(step.inverse));
    Ints::store(values + i, q);
    total = total + q;
  }
  sum = reduce_add(total);
}

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
