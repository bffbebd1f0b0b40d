// The two inner products almost everything is made of (byte_dot.h and fp8_dot.h have two more of weights), each for one
// block of 16 rows (lane = row) and kTokens rows of activations at once, so that what is loaded and unpacked serves all
// of them:
//   float_block: bf16, fp8 or fp32 lines times fp32 activations (weights, and the keys of attention)
//   int_block:   int4, table4 or int8 lines times int16 activations, group by group
// The order of addition of one output element never depends on kTokens.
#pragma once

#include "cpu/generic/int_vec.h"
#include "cpu/kernels.h"
#include "weights/layout.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

// Calls body.template operator()<n>() for the n in 1..kTokenTile given at run time.
template <int kN = kTokenTile, class Body>
inline void with_token_count(int64_t n, const Body& body) {
  if constexpr (kN == 1) {
    body.template operator()<1>();
  } else {
    if (n == kN) return body.template operator()<kN>();
    with_token_count<kN - 1>(n, body);
  }
}

enum Distance { kNear, kFar };  // into the first or the second cache

// Asks for the line at p. Always inline: GCC thinks a function that only prefetches does nothing, and drops
// its calls.
template <Distance kDistance = kNear>
LLAMA4RT_INLINE void prefetch(const void* p) {
  __builtin_prefetch(p, 0, kDistance == kNear ? 3 : 2);
}

// How far ahead of the multiplication weights are asked for. Hardware prefetchers stop at a page; this does
// not.
inline constexpr int64_t kPrefetchBytes = 8192;

// --- float lines: [k / 2][16][2] bf16 or fp8, or [k][16] fp32

// Values k and k + 1 (k even) of 16 rows.
inline void load_two(Vec& even, Vec& odd, const bf16* lines, int64_t k) {
  const IVec words = IVec::load(lines + k * kLanes);
  even = low_bf16(words);
  odd = high_bf16(words);
}
inline void load_two(Vec& even, Vec& odd, const float* lines, int64_t k) {
  even = Vec::load(lines + k * kLanes);
  odd = Vec::load(lines + (k + 1) * kLanes);
}
inline void load_two(Vec& even, Vec& odd, const f8e4m3* lines, int64_t k) {
  widen_f8_pairs(even, odd, IVec::load_u8_pairs(lines + k * kLanes));
}

// sum[t] = sum_k lines[k] * x[t][k]: one chain of even k, one of odd k, added at the end.   x[t]: [k]
// Reads a whole line of two k even when num_k is odd.   ahead: the lines that will be wanted soon
template <int kTokens, class Element, Distance kAhead = kNear>
LLAMA4RT_INLINE void float_block(Vec (&sum)[kTokens], const Element* lines, const Element* ahead,
                                 const float* const* x, int64_t num_k) {
  const float* row[kTokens];
  Vec odd_sum[kTokens];
  for (int t = 0; t < kTokens; ++t) {
    row[t] = x[t];
    sum[t] = odd_sum[t] = Vec::zero();
  }
  Vec even, odd;
  int64_t k = 0;
  for (; k + 2 <= num_k; k += 2) {
    load_two(even, odd, lines, k);
    prefetch<kAhead>(ahead + k * kLanes);
    if constexpr (sizeof(Element) == 4) prefetch<kAhead>(ahead + (k + 1) * kLanes);
    for (int t = 0; t < kTokens; ++t) {
      sum[t] = fma(even, Vec::set1(row[t][k]), sum[t]);
      odd_sum[t] = fma(odd, Vec::set1(row[t][k + 1]), odd_sum[t]);
    }
  }
  if (k < num_k) {
    load_two(even, odd, lines, k);
    for (int t = 0; t < kTokens; ++t) sum[t] = fma(even, Vec::set1(row[t][k]), sum[t]);
  }
  for (int t = 0; t < kTokens; ++t) sum[t] = sum[t] + odd_sum[t];
}

// --- integer lines

// One block of 16 rows of a quantised matrix.
struct IntBlock {
  const uint8_t* lines;
  int64_t num_lines;
  const void* scales;                    // [groups, 16]
  const uint8_t* zeros;                  // [groups, 16] or null
  const void* offsets = nullptr;         // [groups, 16] or null
  const void* factors = nullptr;         // [columns, 16] of scales, where they have some
  const void* offset_factors = nullptr;  // and of offsets
  DType scale_dtype;                     // and of offsets
  DType factor_dtype = DType::kF32;
  bool row_factors = false;
  int group_size;
  int zero;                       // of groups without zero points
  const int8_t* table = nullptr;  // of table4
  int64_t ahead = 0;              // from a line to the one to ask for, where that is not kPrefetchBytes

  // Rows of one group of k values, a fp32 scale each.
  IntBlock(WeightKind kind, const uint8_t* first_line, int64_t k, const float* row_scales)
      : lines(first_line),
        num_lines(cpu16::lines_per_block(kind, k)),
        scales(row_scales),
        zeros(nullptr),
        scale_dtype(DType::kF32),
        group_size(int(k)),
        zero(weight_format(kind).zero) {}
  // w: lives as long as this
  IntBlock(const Weight& w, int64_t block)
      : lines(static_cast<const uint8_t*>(w.data) + block * cpu16::block_bytes(w.kind, w.k)),
        num_lines(cpu16::lines_per_block(w.kind, w.k)),
        scales(side(w, Side::kScales, block)),
        zeros(static_cast<const uint8_t*>(side(w, Side::kZeros, block))),
        offsets(side(w, Side::kOffsets, block)),
        factors(side(w, Side::kFactors, block)),
        offset_factors(side(w, Side::kOffsetFactors, block)),
        scale_dtype(w.scale_dtype),
        factor_dtype(w.factor_dtype),
        row_factors(w.row_factors),
        group_size(w.group_size),
        zero(w.implied_zero()),
        table(w.table.data()) {}

  // Makes scales and offsets plain fp32 numbers, for many rows to come.   memory: [2][groups][16]
  void widen_sides(float* memory, int64_t groups) {
    for (int64_t g = 0; g < groups; ++g) {
      scale(g).store(memory + g * kLanes);
      if (offsets) offset(g).store(memory + (groups + g) * kLanes);
    }
    scales = memory;
    if (offsets) offsets = memory + groups * kLanes;
    scale_dtype = DType::kF32;
  }
  LLAMA4RT_INLINE Vec scale(int64_t group) const { return load(scales, factors, group); }
  LLAMA4RT_INLINE Vec offset(int64_t group) const { return load(offsets, offset_factors, group); }

 private:
  static const void* side(const Weight& w, Side which, int64_t block) {
    if (!has_side(w, which)) return nullptr;
    return static_cast<const char*>(side_data(w, which)) + block * side_block_bytes(w, which);
  }
  LLAMA4RT_INLINE Vec load(const void* numbers, const void* of, int64_t group) const {
    const int64_t i = group * kLanes;
    if (scale_dtype == DType::kF32) return Vec::load(static_cast<const float*>(numbers) + i);
    if (scale_dtype == DType::kBF16) return Vec::load(static_cast<const bf16*>(numbers) + i);
    if (scale_dtype == DType::kF16) return Vec::load(static_cast<const fp16*>(numbers) + i);
    const int64_t column = factor_column(*this, group) * kLanes;
    const Vec factor = factor_dtype == DType::kF16 ? Vec::load(static_cast<const fp16*>(of) + column)
                                                   : Vec::load(static_cast<const float*>(of) + column);
    if (scale_dtype == DType::kI8) return Vec::load(static_cast<const int8_t*>(numbers) + i) * factor;
    return Vec::load(static_cast<const f8e4m3*>(numbers) + i) * factor;
  }
};

// What a group of activations has beside its values, from one row of QuantizedRows on.
struct ActivationGroups {
  const float* scales;
  const int32_t* sums;
  const float* totals;
  ActivationGroups(const QuantizedRows& q, int64_t first_row)
      : scales(q.scales + first_row * q.groups),
        sums(q.sums + first_row * q.groups),
        totals(q.totals + first_row * q.groups) {}
};

// Adds one finished group to the running sum of a row: the integer sum, less zero * sum of activations, times both
// scales; then, of weights with offsets, offset * total of activations.   at: the group's place in x
template <bool kZeros, bool kOffsets>
LLAMA4RT_INLINE Vec add_group(Vec sum, IVec dot, IVec zero, int implied_zero, Vec weight_scale, Vec offset,
                              const ActivationGroups& x, int64_t at) {
  if constexpr (kZeros)
    dot = dot - zero * IVec::set1(x.sums[at]);
  else if constexpr (!kOffsets)  // else it is 0
    dot = dot - IVec::set1(x.sums[at] * implied_zero);
  sum = fma(to_float(dot), weight_scale * Vec::set1(x.scales[at]), sum);
  if constexpr (kOffsets) sum = fma(offset, Vec::set1(x.totals[at]), sum);
  return sum;
}

// body.template operator()<kZeros, kOffsets>() for what a block has.
template <class Body>
LLAMA4RT_INLINE void with_sides(const IntBlock& block, const Body& body) {
  if (block.offsets) {
    if (block.zeros)
      body.template operator()<true, true>();
    else
      body.template operator()<false, true>();
  } else if (block.zeros) {
    body.template operator()<true, false>();
  } else {
    body.template operator()<false, false>();
  }
}

// The table of table4 weights as unsigned bytes, kTableZero too large, for instructions that want them unsigned.
inline constexpr int kTableZero = 128;
LLAMA4RT_INLINE IVec unsigned_table(const IntBlock& block) {
  alignas(16) uint8_t bytes[16];
  for (int i = 0; i < 16; ++i) bytes[i] = uint8_t(block.table[i] + kTableZero);
  return IVec::repeat16(bytes);
}
// What the integers of lines are too large by, where there are no zero points.
template <WeightKind kKind>
constexpr int line_zero(int zero) {
  return weight_format(kKind).meaning == CodeMeaning::kTable ? kTableZero : zero;
}

// A line's words hold pairs of values of consecutive k (weights/layout.h). int4: the pairs lie at bits 0, 4, 8
// and 12 of each half word; the ones at 4 and 12 are left where they are, 16 times too large, and summed
// apart (a group's sum stays below 2^30), which saves two of three shifts.
template <WeightKind kKind>
struct LinePairs;
template <>
struct LinePairs<WeightKind::kInt4> {
  static constexpr int kCount = 4;
  IVec pair[kCount];
  explicit LinePairs(const uint8_t* line, IVec = IVec::zero()) {
    const IVec low = IVec::set1(0x000f000f), high = IVec::set1(0x00f000f0);
    const IVec words = IVec::load(line), shifted = shift_right<8>(words);
    pair[0] = words & low;
    pair[1] = words & high;
    pair[2] = shifted & low;
    pair[3] = shifted & high;
  }
  static IVec combine(IVec even_pairs, IVec odd_pairs) {
    return even_pairs + shift_right_signed<4>(odd_pairs);
  }
};
template <>
struct LinePairs<WeightKind::kInt8> {
  static constexpr int kCount = 2;
  IVec pair[kCount];
  explicit LinePairs(const uint8_t* line, IVec = IVec::zero()) {
    const IVec low = IVec::set1(0x00ff00ff), words = IVec::load(line);
    pair[0] = words & low;
    pair[1] = shift_right<8>(words) & low;
  }
  static IVec combine(IVec even_pairs, IVec odd_pairs) { return even_pairs + odd_pairs; }
};

// table4: codes of an int4 line, looked up eight bits wide.
template <>
struct LinePairs<WeightKind::kTable4> {
  static constexpr int kCount = 4;
  IVec pair[kCount];
  LinePairs(const uint8_t* line, IVec table) {
    const IVec nibbles = IVec::set1(0x0f0f0f0f), low = IVec::set1(0x00ff00ff), words = IVec::load(line);
    const IVec first = look_up(table, words & nibbles),
               second = look_up(table, shift_right<4>(words) & nibbles);
    pair[0] = first & low;
    pair[1] = second & low;
    pair[2] = shift_right<8>(first) & low;
    pair[3] = shift_right<8>(second) & low;
  }
  static IVec combine(IVec even_pairs, IVec odd_pairs) { return even_pairs + odd_pairs; }
};

// sum[t] = sum over groups, in order, of add_group.   Rows first_row .. first_row + kTokens - 1 of q.
// kAhead: kFar asks for lines block.ahead away in the second cache, kNear kPrefetchBytes away in the first
template <int kTokens, WeightKind kKind, Distance kAhead = kNear>
LLAMA4RT_INLINE void int_block(Vec (&sum)[kTokens], const IntBlock& block, const QuantizedRows& q,
                               int64_t first_row) {
  using Pairs = LinePairs<kKind>;
  constexpr int kChains = int_chains(kTokens);
  constexpr int64_t kPerLine = cpu16::values_per_word(kKind);
  const int16_t* x[kTokens];
  for (int t = 0; t < kTokens; ++t) {
    x[t] = q.values + (first_row + t) * q.stride;
    sum[t] = Vec::zero();
  }
  const ActivationGroups groups(q, first_row);
  const uint8_t* line = block.lines;
  const uint8_t* const end = line + block.num_lines * cpu16::kLineBytes;
  IVec table{};
  if constexpr (weight_format(kKind).meaning == CodeMeaning::kTable) table = unsigned_table(block);
  for (int64_t g = 0; g < q.groups; ++g) {
    IVec chain[kTokens][kChains];
    for (auto& c : chain)
      for (IVec& v : c) v = IVec::zero();
    // Even chains take even pairs; two lines a turn, so that all chains are used.
    const auto step = [&]<int kLine>() LLAMA4RT_INLINE_LAMBDA {
      const Pairs w(line, table);
      prefetch<kAhead>(line + (kAhead == kNear ? kPrefetchBytes : block.ahead));
      for (int j = 0; j < Pairs::kCount; ++j)
        for (int t = 0; t < kTokens; ++t) {
          IVec& c = chain[t][(kLine * Pairs::kCount + j) % kChains];
          c = dot_pairs(c, w.pair[j], x[t] + 2 * j);
        }
      for (int t = 0; t < kTokens; ++t) x[t] += kPerLine;
      line += cpu16::kLineBytes;
    };
    const uint8_t* group_end = line + block.group_size / kPerLine * cpu16::kLineBytes;
    if (group_end > end) group_end = end;
    while (line + cpu16::kLineBytes < group_end) {
      step.template operator()<0>();
      step.template operator()<1>();
    }
    if (line < group_end) step.template operator()<0>();
    const Vec scale = block.scale(g);
    with_sides(block, [&]<bool kZeros, bool kOffsets>() LLAMA4RT_INLINE_LAMBDA {
      const IVec zero = kZeros ? IVec::load_u8(block.zeros + g * kLanes) : IVec::zero();
      const Vec offset = kOffsets ? block.offset(g) : Vec::zero();
      for (int t = 0; t < kTokens; ++t) {
        IVec even = chain[t][0], odd = chain[t][1];
        for (int c = 2; c < kChains; c += 2) {
          even = even + chain[t][c];
          odd = odd + chain[t][c + 1];
        }
        sum[t] =
            add_group<kZeros, kOffsets>(sum[t], Pairs::combine(even, odd), zero, line_zero<kKind>(block.zero),
                                        scale, offset, groups, t * q.groups + g);
      }
    });
  }
}

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
