// The inner product of int4 lines with int8 activations: an instruction multiplies twice as many numbers as
// those in dot.h, for callers who accept the error (docs/numerics.md). As there: one block of 16 rows,
// kTokens rows of activations at once, and bits that do not depend on kTokens.
#pragma once

#include <type_traits>

#include "cpu/generic/dot.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

// A group's sum for one row of activations: bytes go in, an exact int32 comes out. Where kBytePairs,
// products are added as int16 first: 4 lines of 2 times 2 products of at most 15 * 127 stay below 2^15.
struct BytePairSum {
  static constexpr int kFlushLines = 4;
  IVec total, pairs;
  explicit BytePairSum(int32_t start) : total(IVec::set1(start)), pairs(IVec::zero()) {}
  BytePairSum() = default;
  void add(IVec w, IVec x) { pairs = add_byte_pairs(pairs, w, x); }
  void flush() {
    total = total + sum_int16_pairs(pairs);
    pairs = IVec::zero();
  }
};
struct ByteDotSum {
  static constexpr int kFlushLines = 128 / 8;  // no need to: the longest group
  IVec total;
  explicit ByteDotSum(int32_t start) : total(IVec::set1(start)) {}
  ByteDotSum() = default;
  void add(IVec w, IVec x) { total = dot_bytes(total, w, x); }
  void flush() {}
};
using ByteSum = std::conditional_t<kBytePairs, BytePairSum, ByteDotSum>;

// sum[t] = sum over groups, in order, of (dot - zero * sum of activations) * both scales.
// Rows first_row .. first_row + kTokens - 1 of q, whose `bytes` are set.
template <int kTokens>
LLAMA4RT_INLINE void byte_block(Vec (&sum)[kTokens], const IntBlock& block, const QuantizedRows& q,
                                int64_t first_row) {
  constexpr int kChains = byte_chains(kTokens);
  constexpr int64_t kPerLine = cpu16::values_per_word(WeightKind::kInt4);
  const IVec low = IVec::set1(0x0f0f0f0f);
  const int8_t* x = q.bytes + first_row * q.stride;
  const float* scales = q.scales + first_row * q.groups;
  const int32_t* sums = q.sums + first_row * q.groups;
  for (Vec& s : sum) s = Vec::zero();
  const uint8_t* line = block.lines;
  const uint8_t* const end = line + block.num_lines * cpu16::kLineBytes;
  for (int64_t g = 0; g < q.groups; ++g) {
    ByteSum dot[kTokens][kChains];
    for (int t = 0; t < kTokens; ++t) {
      dot[t][0] = ByteSum(block.zeros ? 0 : -weight_format(WeightKind::kInt4).zero * sums[t * q.groups + g]);
      for (int c = 1; c < kChains; ++c) dot[t][c] = ByteSum(0);
    }
    const uint8_t* group_end = line + block.group_size / kPerLine * cpu16::kLineBytes;
    if (group_end > end) group_end = end;
    while (line < group_end) {
      const uint8_t* stop = line + ByteSum::kFlushLines * cpu16::kLineBytes;
      if (stop > group_end) stop = group_end;
      for (; line < stop; line += cpu16::kLineBytes, x += kPerLine) {
        const IVec words = IVec::load(line), even = words & low, odd = shift_right<4>(words) & low;
        prefetch(line + kPrefetchBytes);
        for (int t = 0; t < kTokens; ++t) {
          dot[t][0].add(even, IVec::set1(load_i32(x + t * q.stride)));
          dot[t][kChains - 1].add(odd, IVec::set1(load_i32(x + t * q.stride + 4)));
        }
      }
      for (auto& chains : dot)
        for (ByteSum& d : chains) d.flush();
    }
    const Vec scale = block.scale(g);
    for (int t = 0; t < kTokens; ++t) {
      IVec total = dot[t][0].total;
      for (int c = 1; c < kChains; ++c) total = total + dot[t][c].total;
      if (block.zeros)
        total = total - IVec::load_u8(block.zeros + g * kLanes) * IVec::set1(sums[t * q.groups + g]);
      sum[t] = fma(to_float(total), scale * Vec::set1(scales[t * q.groups + g]), sum[t]);
    }
  }
}

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
