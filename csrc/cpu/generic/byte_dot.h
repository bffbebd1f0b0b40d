// The inner product of 4-bit lines (int4, table4) with int8 activations: an instruction multiplies twice as many
// numbers as those in dot.h, for callers who accept the error (docs/numerics.md). As there: one block of 16 rows,
// kTokens rows of activations at once, and bits that do not depend on kTokens.
#pragma once

#include <type_traits>

#include "cpu/generic/dot.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

// A group's sum for one row of activations: bytes of weights (`Bytes`, made once of a line's) and of activations go in,
// an exact int32 comes out.

// Where kBytePairs, products are added as int16 first: kLines lines of 2 times 2 products of at most 15 * 127 (4
// lines), or kNarrowTable * 127 (2 lines), stay below 2^15.
template <int kLines>
struct BytePairSum {
  static constexpr int kFlushLines = kLines;
  using Bytes = IVec;  // unsigned
  IVec total, pairs;
  explicit BytePairSum(int32_t start) : total(IVec::set1(start)), pairs(IVec::zero()) {}
  BytePairSum() = default;
  void add(IVec w, IVec x) { pairs = add_byte_pairs(pairs, w, x); }
  void flush() {
    total = total + sum_int16_pairs(pairs);
    pairs = IVec::zero();
  }
};
// The same of bytes that are signed, up to 128: one sum of two products, at most 2 * 128 * 127, is all that int16
// holds.
struct SignedPairSum {
  static constexpr int kFlushLines = 128 / 8;  // no need to: the longest group
  struct Bytes {
    IVec magnitudes;
    ByteSigns signs;
    Bytes(IVec w) : magnitudes(byte_magnitudes(w)), signs(byte_signs(w)) {}  // NOLINT: as IVec to the others
  };
  IVec total;
  explicit SignedPairSum(int32_t start) : total(IVec::set1(start)) {}
  SignedPairSum() = default;
  void add(const Bytes& w, IVec x) {
    total = total + sum_int16_pairs(add_byte_pairs(IVec::zero(), w.magnitudes, with_signs(x, w.signs)));
  }
  void flush() {}
};
struct ByteDotSum {
  static constexpr int kFlushLines = 128 / 8;
  using Bytes = IVec;  // unsigned
  IVec total;
  explicit ByteDotSum(int32_t start) : total(IVec::set1(start)) {}
  ByteDotSum() = default;
  void add(IVec w, IVec x) { total = dot_bytes(total, w, x); }
  void flush() {}
};

// How a kind's lines become bytes, and how these are multiplied.   kNarrow: the table passed narrow_table()
template <WeightKind kKind, bool kNarrow>
struct ByteLines;
template <>
struct ByteLines<WeightKind::kInt4, false> {
  using Sum = std::conditional_t<kBytePairs, BytePairSum<4>, ByteDotSum>;
  int zero;
  explicit ByteLines(const IntBlock& block) : zero(block.zero) {}
  IVec bytes(IVec nibbles) const { return nibbles; }
};
template <>
struct ByteLines<WeightKind::kTable4, false> {
  using Sum = std::conditional_t<kBytePairs, SignedPairSum, ByteDotSum>;
  static constexpr int zero = kBytePairs ? 0 : kTableZero;
  IVec table;
  explicit ByteLines(const IntBlock& block)
      : table(kBytePairs ? IVec::repeat16(block.table) : unsigned_table(block)) {}
  IVec bytes(IVec nibbles) const { return look_up(table, nibbles); }
};
// Where kBytePairs, a table whose numbers lie close together (e2m1: 24 apart) is cheaper with its smallest as zero
// point.
inline constexpr int kNarrowTable = 32;
inline bool narrow_table(const CodeTable& table) {
  int low = table[0], high = table[0];
  for (const int number : table) {
    low = number < low ? number : low;
    high = number > high ? number : high;
  }
  return high - low <= kNarrowTable;
}
template <>
struct ByteLines<WeightKind::kTable4, true> {
  using Sum = BytePairSum<2>;
  int zero = 0;
  IVec table;
  explicit ByteLines(const IntBlock& block) {
    for (int i = 0; i < 16; ++i) zero = -block.table[i] > zero || i == 0 ? -block.table[i] : zero;
    alignas(16) uint8_t bytes[16];
    for (int i = 0; i < 16; ++i) bytes[i] = uint8_t(block.table[i] + zero);
    table = IVec::repeat16(bytes);
  }
  IVec bytes(IVec nibbles) const { return look_up(table, nibbles); }
};

// sum[t] = sum over groups, in order, of add_group.   Rows first_row .. first_row + kTokens - 1 of q, whose `bytes` are
// set.
template <int kTokens, WeightKind kKind, bool kNarrow = false>
LLAMA4RT_INLINE void byte_block(Vec (&sum)[kTokens], const IntBlock& block, const QuantizedRows& q,
                                int64_t first_row) {
  using Lines = ByteLines<kKind, kNarrow>;
  using Sum = typename Lines::Sum;
  constexpr int kChains = byte_chains(kTokens);
  constexpr int64_t kPerLine = cpu16::values_per_word(kKind);
  const Lines lines(block);
  const int start = block.zeros ? 0 : -lines.zero;  // of a sum, per activation
  const IVec low = IVec::set1(0x0f0f0f0f);
  const int8_t* x = q.bytes + first_row * q.stride;
  const ActivationGroups groups(q, first_row);
  for (Vec& s : sum) s = Vec::zero();
  const uint8_t* line = block.lines;
  const uint8_t* const end = line + block.num_lines * cpu16::kLineBytes;
  for (int64_t g = 0; g < q.groups; ++g) {
    Sum dot[kTokens][kChains];
    for (auto& chains : dot)
      for (Sum& d : chains) d = Sum(0);
    if (start != 0)
      for (int t = 0; t < kTokens; ++t) dot[t][0] = Sum(start * groups.sums[t * q.groups + g]);
    const uint8_t* group_end = line + block.group_size / kPerLine * cpu16::kLineBytes;
    if (group_end > end) group_end = end;
    while (line < group_end) {
      const uint8_t* stop = line + Sum::kFlushLines * cpu16::kLineBytes;
      if (stop > group_end) stop = group_end;
      for (; line < stop; line += cpu16::kLineBytes, x += kPerLine) {
        const IVec words = IVec::load(line);
        const typename Sum::Bytes even(lines.bytes(words & low)),
            odd(lines.bytes(shift_right<4>(words) & low));
        prefetch(line + kPrefetchBytes);
        for (int t = 0; t < kTokens; ++t) {
          dot[t][0].add(even, IVec::set1(load_i32(x + t * q.stride)));
          dot[t][kChains - 1].add(odd, IVec::set1(load_i32(x + t * q.stride + 4)));
        }
      }
      for (auto& chains : dot)
        for (Sum& d : chains) d.flush();
    }
    const Vec scale = block.scale(g);
    with_sides(block, [&]<bool kZeros, bool kOffsets>() LLAMA4RT_INLINE_LAMBDA {
      const IVec zero = kZeros ? IVec::load_u8(block.zeros + g * kLanes) : IVec::zero();
      const Vec offset = kOffsets ? block.offset(g) : Vec::zero();
      for (int t = 0; t < kTokens; ++t) {
        IVec total = dot[t][0].total;
        for (int c = 1; c < kChains; ++c) total = total + dot[t][c].total;
        sum[t] = add_group<kZeros, kOffsets>(sum[t], total, zero, 0, scale, offset, groups, t * q.groups + g);
      }
    });
  }
}

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
