// The two inner products everything is made of, each for one block of 16 rows (lane = row) and kTokens rows
// of activations at once, so that what is loaded and unpacked serves all of them:
//   float_block: bf16, fp8 or fp32 lines times fp32 activations (weights, and the keys of attention)
//   int_block:   int4 or int8 lines times int16 activations, group by group
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
  const void* scales;    // [groups, 16]
  const uint8_t* zeros;  // [groups, 16] or null
  bool f32_scales;
  int group_size;
  int64_t ahead = 0;  // from a line to the one to ask for, where that is not kPrefetchBytes

  // Rows of one group of k values, a fp32 scale each.
  IntBlock(WeightKind kind, const uint8_t* first_line, int64_t k, const float* row_scales)
      : lines(first_line),
        num_lines(cpu16::lines_per_block(kind, k)),
        scales(row_scales),
        zeros(nullptr),
        f32_scales(true),
        group_size(int(k)) {}
  IntBlock(const Weight& w, int64_t block)
      : lines(static_cast<const uint8_t*>(w.data) + block * cpu16::block_bytes(w.kind, w.k)),
        num_lines(cpu16::lines_per_block(w.kind, w.k)),
        scales(static_cast<const char*>(w.scales) +
               block * w.num_groups() * kLanes * int64_t(dtype_size(w.scale_dtype))),
        zeros(w.zeros ? w.zeros + block * w.num_groups() * kLanes : nullptr),
        f32_scales(w.scale_dtype == DType::kF32),
        group_size(w.group_size) {}

  Vec scale(int64_t group) const {
    return f32_scales ? Vec::load(static_cast<const float*>(scales) + group * kLanes)
                      : Vec::load(static_cast<const bf16*>(scales) + group * kLanes);
  }
};

// Adds one finished group to the running sum of a row: (dot - zero * sum of activations) * both scales.
template <WeightKind kKind, bool kZeros>
LLAMA4RT_INLINE Vec add_group(Vec sum, IVec dot, IVec zero, Vec weight_scale, float activation_scale,
                              int32_t activation_sum) {
  if constexpr (kZeros)
    dot = dot - zero * IVec::set1(activation_sum);
  else
    dot = dot - IVec::set1(activation_sum * weight_format(kKind).zero);
  return fma(to_float(dot), weight_scale * Vec::set1(activation_scale), sum);
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
  explicit LinePairs(const uint8_t* line) {
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
  explicit LinePairs(const uint8_t* line) {
    const IVec low = IVec::set1(0x00ff00ff), words = IVec::load(line);
    pair[0] = words & low;
    pair[1] = shift_right<8>(words) & low;
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
  const float* scales = q.scales + first_row * q.groups;
  const int32_t* sums = q.sums + first_row * q.groups;
  const uint8_t* line = block.lines;
  const uint8_t* const end = line + block.num_lines * cpu16::kLineBytes;
  for (int64_t g = 0; g < q.groups; ++g) {
    IVec chain[kTokens][kChains];
    for (auto& c : chain)
      for (IVec& v : c) v = IVec::zero();
    // Even chains take even pairs; two lines a turn, so that all chains are used.
    const auto step = [&]<int kLine>() LLAMA4RT_INLINE_LAMBDA {
      const Pairs w(line);
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
    for (int t = 0; t < kTokens; ++t) {
      IVec even = chain[t][0], odd = chain[t][1];
      for (int c = 2; c < kChains; c += 2) {
        even = even + chain[t][c];
        odd = odd + chain[t][c + 1];
      }
      const IVec dot = Pairs::combine(even, odd);
      const float x_scale = scales[t * q.groups + g];
      const int32_t x_sum = sums[t * q.groups + g];
      sum[t] = block.zeros ? add_group<kKind, true>(sum[t], dot, IVec::load_u8(block.zeros + g * kLanes),
                                                    scale, x_scale, x_sum)
                           : add_group<kKind, false>(sum[t], dot, IVec::zero(), scale, x_scale, x_sum);
    }
  }
}

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
