// Weights as the tensor cores take them: from a lane's 16 bytes of a tile (weights/layout.h, kCudaTile) to the
// registers of the left operand of m16n8k16. wgmma's operand in registers has the same map, 16 rows to a
// warp.
//
// The order of additions of every linear on CUDA, whatever the batch and the kernel:
//   1. the 16 products of one step of k, in the hardware's own order;
//   2. steps ascending within a weight group, from 0 (bf16 has no groups: within a split);
//   3. groups ascending within a split of 1024 columns: sum = fma(group's sum, scale, sum), from 0;
//      then offsets (device/group_sums.cuh);
//   4. splits ascending: total = total + split's sum, from 0.
#pragma once

#include "cuda/device/split_columns.h"
#include "cuda/ptx/math.cuh"
#include "cuda/simt.h"

namespace llama4rt::cuda {

inline constexpr int kTileBytes = 512;  // 16 rows of kTileColumns columns

// Each kind of weight has
//   kTileColumns, kSteps   columns of a tile; steps of 16 columns in it
//   kGroup                 columns that share a scale
//   kScaled, kZeros        whether there are scales; zero points
//   kGeneral               one of device/general_weights.cuh, where kGroup is only the smallest group
//   Bias                   what the zero points of the lane's two rows mean to it
//   pair(words, step, c, h, bias, row)   columns 8 c + 2 t.. of row g + 8 h: two values, exact in bf16, not
//                                    scaled; `row` says which row of `bias` that is
//   fragment(a, words, step, bias)   the left operand of one step: its four pairs

// q - z. 0x4300 is 128 in bf16, whose last place is 1: or-ing q into it gives 128 + q.
template <int kGroupSize, bool kWithZeros>
struct Int4Weights {
  static constexpr int kTileColumns = 64, kSteps = 4, kGroup = kGroupSize;
  static constexpr bool kScaled = true, kZeros = kWithZeros, kGeneral = false;
  struct Bias {
    uint32_t minus[2];  // -(128 + z) in both halves, for rows g and g + 8; 128 + z is exact in bf16
  };
  static LLAMA4RT_DEVICE Bias bias(int zero0, int zero1) {
    if constexpr (!kZeros) return {{0xc308c308, 0xc308c308}};  // -136
    const float b0 = -float(128 + zero0), b1 = -float(128 + zero1);
    return {{ptx::pack_bf16(b0, b0), ptx::pack_bf16(b1, b1)}};
  }
  static LLAMA4RT_DEVICE uint32_t pair(const U32x4& words, int step, int c, int h, const Bias& bias,
                                       int row) {
    constexpr uint32_t kMask = 0x000f000f, k128 = 0x43004300, kOne = 0x3f803f80;
    const uint32_t word = step < 2 ? (step == 0 ? words.x : words.y) : (step == 2 ? words.z : words.w);
    return ptx::fma_bf16x2(ptx::and_or(word >> (8 * c + 4 * h), kMask, k128), kOne, bias.minus[row]);
  }
  static LLAMA4RT_DEVICE void fragment(uint32_t (&a)[4], const U32x4& words, int step, const Bias& bias) {
    for (int r = 0; r < 4; ++r) a[r] = pair(words, step, r / 2, r % 2, bias, r % 2);
  }
};

// q - 128. The low seven bits as above; the top bit says whether 128 or 256 is to be subtracted: 0xc300 is
// -128 and 0xc380 is -256.
template <int kGroupSize>
struct Int8Weights {
  static constexpr int kTileColumns = 32, kSteps = 2, kGroup = kGroupSize;
  static constexpr bool kScaled = true, kZeros = false, kGeneral = false;
  struct Bias {};
  static LLAMA4RT_DEVICE Bias bias(int, int) { return {}; }
  static LLAMA4RT_DEVICE uint32_t pair(const U32x4& words, int step, int c, int h, const Bias&, int) {
    constexpr uint32_t kLow = 0x007f007f, k128 = 0x43004300, kTop = 0x00800080, kMinus256 = 0xc380c380,
                       kOne = 0x3f803f80;
    const uint32_t word = step == 0 ? (c == 0 ? words.x : words.y) : (c == 0 ? words.z : words.w);
    const uint32_t q = word >> (8 * h);
    return ptx::fma_bf16x2(ptx::and_or(q, kLow, k128), kOne, (q & kTop) ^ kMinus256);
  }
  static LLAMA4RT_DEVICE void fragment(uint32_t (&a)[4], const U32x4& words, int step, const Bias& bias) {
    for (int r = 0; r < 4; ++r) a[r] = pair(words, step, r / 2, r % 2, bias, r % 2);
  }
};

struct BF16Weights {
  static constexpr int kTileColumns = 16, kSteps = 1, kGroup = kSplitColumns;
  static constexpr bool kScaled = false, kZeros = false, kGeneral = false;
  struct Bias {};
  static LLAMA4RT_DEVICE Bias bias(int, int) { return {}; }
  static LLAMA4RT_DEVICE uint32_t pair(const U32x4& words, int, int c, int h, const Bias&, int) {
    return c == 0 ? (h == 0 ? words.x : words.y) : (h == 0 ? words.z : words.w);
  }
  static LLAMA4RT_DEVICE void fragment(uint32_t (&a)[4], const U32x4& words, int step, const Bias& bias) {
    for (int r = 0; r < 4; ++r) a[r] = pair(words, step, r / 2, r % 2, bias, r % 2);
  }
};

// Element `index` of an array of scales, bf16 or fp32.
LLAMA4RT_DEVICE float scale_at(const void* scales, int index, bool fp32) {
  if (fp32) return static_cast<const float*>(scales)[index];
  return ptx::float_from_bits(uint32_t(static_cast<const uint16_t*>(scales)[index]) << 16);
}

}  // namespace llama4rt::cuda
