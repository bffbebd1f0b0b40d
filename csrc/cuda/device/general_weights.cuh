// The kinds of weights of device/weight_tiles.cuh once more, for kernels that learn at run time of which type scales
// are, and whether there are zero points and offsets. kUnit is the number of columns after which a group may end:
// groups have as many columns, or with kMultiples any multiple of it, which is known at run time as well.
//
// Their order of additions is that of weight_tiles.cuh, and offsets come last in a split (device/group_sums.cuh).
#pragma once

#include "cuda/device/general_args.cuh"
#include "cuda/device/weight_tiles.cuh"
#include "cuda/ptx/bits.cuh"

namespace llama4rt::cuda {

// A Bias holds what zero points mean to the lane's two rows, as there; functions also take what the launch says.
template <int kUnitColumns, bool kGroupsAreMultiples>
struct GeneralInt4 : Int4Weights<kUnitColumns, true> {
  static constexpr bool kGeneral = true;
  static constexpr int kUnit = kUnitColumns;
  static constexpr bool kMultiples = kGroupsAreMultiples;
  using Base = Int4Weights<kUnitColumns, true>;
  using Bias = typename Base::Bias;
  static LLAMA4RT_DEVICE uint32_t pair(const U32x4& words, int step, int c, int h, const Bias& bias, int row,
                                       const GeneralArgs&) {
    return Base::pair(words, step, c, h, bias, row);
  }
  static LLAMA4RT_DEVICE void fragment(uint32_t (&a)[4], const U32x4& words, int step, const Bias& bias,
                                       const GeneralArgs&) {
    Base::fragment(a, words, step, bias);
  }
};

// q - 128 as in Int8Weights, then + 128 - z: each step is a whole number of at most 256, exact in bf16.
template <int kUnitColumns, bool kGroupsAreMultiples>
struct GeneralInt8 {
  using Symmetric = Int8Weights<kUnitColumns>;
  static constexpr int kTileColumns = 32, kSteps = 2, kGroup = kUnitColumns, kUnit = kUnitColumns;
  static constexpr bool kScaled = true, kZeros = true, kGeneral = true, kMultiples = kGroupsAreMultiples;
  struct Bias {
    uint32_t plus[2];
  };
  static LLAMA4RT_DEVICE Bias bias(int zero0, int zero1) {
    const float b0 = float(128 - zero0), b1 = float(128 - zero1);
    return {{ptx::pack_bf16(b0, b0), ptx::pack_bf16(b1, b1)}};
  }
  static LLAMA4RT_DEVICE uint32_t pair(const U32x4& words, int step, int c, int h, const Bias& bias, int row,
                                       const GeneralArgs&) {
    constexpr uint32_t kOne = 0x3f803f80;
    return ptx::fma_bf16x2(Symmetric::pair(words, step, c, h, {}, row), kOne, bias.plus[row]);
  }
  static LLAMA4RT_DEVICE void fragment(uint32_t (&a)[4], const U32x4& words, int step, const Bias& bias,
                                       const GeneralArgs& g) {
    for (int r = 0; r < 4; ++r) a[r] = pair(words, step, r / 2, r % 2, bias, r % 2, g);
  }
};

// Exponent and mantissa of e4m3 moved into the places of bf16, whose bias is 120 larger. Exact, subnormals too.
template <int kUnitColumns, bool kGroupsAreMultiples>
struct GeneralFp8 {
  static constexpr int kTileColumns = 32, kSteps = 2, kGroup = kUnitColumns, kUnit = kUnitColumns;
  static constexpr bool kScaled = true, kZeros = false, kGeneral = true, kMultiples = kGroupsAreMultiples;
  struct Bias {};
  static LLAMA4RT_DEVICE Bias bias(int, int) { return {}; }
  static LLAMA4RT_DEVICE uint32_t pair(const U32x4& words, int step, int c, int h, const Bias&, int,
                                       const GeneralArgs&) {
    constexpr uint32_t kSign = 0x80008000, kRest = 0x07f007f0, k2To120 = 0x7b807b80;
    const uint32_t word = step == 0 ? (c == 0 ? words.x : words.y) : (c == 0 ? words.z : words.w);
    const uint32_t rest = h == 0 ? word << 4 : word >> 4, sign = h == 0 ? word << 8 : word;
    return ptx::fma_bf16x2(ptx::and_or(rest, kRest, sign & kSign), k2To120, 0);
  }
  static LLAMA4RT_DEVICE void fragment(uint32_t (&a)[4], const U32x4& words, int step, const Bias& bias,
                                       const GeneralArgs& g) {
    for (int r = 0; r < 4; ++r) a[r] = pair(words, step, r / 2, r % 2, bias, r % 2, g);
  }
};

// Half a word has four codes, rows g and g + 8 of the even column, then of the odd one (weights/layout.h). Low bytes of
// four bf16 are picked from the table at once, and high bytes; a code's top bit chooses between the table's halves.
template <int kUnitColumns, bool kGroupsAreMultiples>
struct GeneralTable4 {
  static constexpr int kTileColumns = 64, kSteps = 4, kGroup = kUnitColumns, kUnit = kUnitColumns;
  static constexpr bool kScaled = true, kZeros = false, kGeneral = true, kMultiples = kGroupsAreMultiples;
  struct Bias {};
  static LLAMA4RT_DEVICE Bias bias(int, int) { return {}; }
  // Bytes of the codes of columns 8 c..: (row g, even), (row g + 8, even), (g, odd), (g + 8, odd).
  static LLAMA4RT_DEVICE void bytes(uint32_t& low, uint32_t& high, uint32_t word, int c,
                                    const GeneralArgs& g) {
    const uint32_t place = (word & 0x77777777u) >> (16 * c);
    const uint32_t half = (((word >> 1) & 0x44444444u) | 0x32103210u) >> (16 * c);
    low = ptx::pick_bytes(ptx::pick_bytes(g.table_low[0], g.table_low[1], place),
                          ptx::pick_bytes(g.table_low[2], g.table_low[3], place), half);
    high = ptx::pick_bytes(ptx::pick_bytes(g.table_high[0], g.table_high[1], place),
                           ptx::pick_bytes(g.table_high[2], g.table_high[3], place), half);
  }
  static LLAMA4RT_DEVICE uint32_t word_of(const U32x4& words, int step) {
    return step < 2 ? (step == 0 ? words.x : words.y) : (step == 2 ? words.z : words.w);
  }
  static LLAMA4RT_DEVICE uint32_t row_of(uint32_t low, uint32_t high, int h) {
    return ptx::pick_bytes(low, high, h == 0 ? 0x6240u : 0x7351u);
  }
  static LLAMA4RT_DEVICE uint32_t pair(const U32x4& words, int step, int c, int h, const Bias&, int,
                                       const GeneralArgs& g) {
    uint32_t low, high;
    bytes(low, high, word_of(words, step), c, g);
    return row_of(low, high, h);
  }
  static LLAMA4RT_DEVICE void fragment(uint32_t (&a)[4], const U32x4& words, int step, const Bias&,
                                       const GeneralArgs& g) {
    for (int c = 0; c < 2; ++c) {
      uint32_t low, high;
      bytes(low, high, word_of(words, step), c, g);
      for (int h = 0; h < 2; ++h) a[2 * c + h] = row_of(low, high, h);
    }
  }
};

template <class Weights>
LLAMA4RT_DEVICE int group_shift_of(const GeneralArgs& g) {
  static_assert(Weights::kUnit == 16 || Weights::kUnit == 32 || Weights::kUnit == 64);
  if constexpr (Weights::kMultiples) return g.group_shift;
  return Weights::kUnit == 16 ? 4 : Weights::kUnit == 32 ? 5 : 6;
}
// Whether a group begins at `column`, of K or of a split, or ends before it.
template <class Weights>
LLAMA4RT_DEVICE bool group_begins(const GeneralArgs& g, int column) {
  return (column & ((1 << group_shift_of<Weights>(g)) - 1)) == 0;
}

}  // namespace llama4rt::cuda
