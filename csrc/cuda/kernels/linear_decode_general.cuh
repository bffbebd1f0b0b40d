// What linear_decode.cuh does otherwise for general weights: it learns at run time what lies beside the tiles.
//
//   a stage of one warp:
//            +-----------------------------+-----------------------+--------------+--------------+
//            | tiles: 128 columns          | scales, as stored     | zero points  | factors      |
//            |                             | 16 for each group     | 16 per group | 16 fp32      |
//            +-----------------------------+-----------------------+--------------+--------------+
//   and with offsets, behind the stages of a split, one for each 16 groups in it:
//            +-----------------------------+-----------------------+
//            | offsets, as stored          | their factors, up to  |
//            | 16 for each of 16 groups    | 4 times 16 fp32       |
//            +-----------------------------+-----------------------+
#pragma once

#include "cuda/device/general_weights.cuh"
#include "cuda/device/group_sums.cuh"
#include "cuda/device/side_numbers.cuh"
#include "cuda/device/unroll.cuh"
#include "cuda/kernels/decode_args.h"
#include "cuda/ptx/cp_async.cuh"
#include "cuda/ptx/matrix.cuh"
#include "cuda/ptx/memory.cuh"

namespace llama4rt::cuda {

inline constexpr int kOffsetGroups = 16;  // of a stage of offsets

LLAMA4RT_DEVICE int smaller(int x, int y) { return x < y ? x : y; }
LLAMA4RT_DEVICE int groups_of_columns(int columns, int shift) {
  return (columns + (1 << shift) - 1) >> shift;
}

// Where the next stage's scales and the rest come from: this lane's 16 bytes.
template <class Config>
struct GeneralSides {
  const unsigned char* scales;
  const unsigned char* zeros;
  const unsigned char* factors;
  const unsigned char* offsets;
  const unsigned char* offset_factors;
  int scale_chunks_left = 0;    // of 16 bytes, of the split
  int groups_left = 0;          // of the split, for zero points
  int offset_chunks_left = 0;   // of 16 bytes, of the split, not above 0 without offsets
  int factor_columns_left = 0;  // of factors, of the row
  bool second_half = false;     // of the columns that share a factor

  // `rows`: row blocks before this one, in all experts.
  LLAMA4RT_DEVICE void point(const DecodeArgs& a, const DecodeMatrices& m, int64_t rows, int split,
                             int lane) {
    const GeneralArgs& g = a.general;
    const int groups = groups_of_columns(a.k, g.group_shift),
              first = split * (kSplitColumns >> g.group_shift);
    groups_left = smaller(groups - first, kSplitColumns >> g.group_shift);
    const int64_t at = (rows * groups + first) * 16;
    const int bytes = g.number_bytes;
    scale_chunks_left = groups_left * bytes;
    offset_chunks_left = g.boxes > 0 ? scale_chunks_left : 0;
    scales = m.scales + at * bytes + lane * 16;
    if (g.has_zeros) zeros = m.zeros + at + lane * 16;
    if (g.boxes > 0) offsets = m.offsets + at * bytes + lane * 16;
    const int columns = (a.k + kFactorColumns - 1) / kFactorColumns;
    const int first_column = split * (kSplitColumns / kFactorColumns);
    factor_columns_left = columns - first_column;
    const int64_t factor = (rows * columns + first_column) * 64 + lane * 16;
    if (g.has_factors) factors = m.factors + factor;
    if (g.has_factors && g.boxes > 0) offset_factors = m.offset_factors + factor;
    second_half = false;
  }

  // to: shared address of this lane's bytes at the start of the stage.
  LLAMA4RT_DEVICE void load(const GeneralArgs& g, uint32_t to, int lane) {
    const int groups = Config::kStageColumns >> group_shift_of<typename Config::Weights>(g),
              chunks = groups * g.number_bytes;
    if (lane < chunks)
      ptx::copy_async_16(to + Config::kScaleOffset, scales, lane < scale_chunks_left ? 16 : 0);
    scales += chunks * 16;
    scale_chunks_left -= chunks;
    if (g.has_zeros) {
      if (lane < groups) ptx::copy_async_16(to + Config::kZeroOffset, zeros, lane < groups_left ? 16 : 0);
      zeros += groups * 16;
      groups_left -= groups;
    }
    if (g.has_factors) {
      if (lane < 4) ptx::copy_async_16(to + Config::kFactorOffset, factors, 16);
      if (second_half) factors += 64;
      second_half = !second_half;
    }
  }
  LLAMA4RT_DEVICE void load_offsets(const GeneralArgs& g, uint32_t to, int lane) {
    const int chunks = kOffsetGroups * g.number_bytes;
    for (int i = 0; i < 2; ++i) {
      const int chunk = i * kWarpSize + lane;
      if (chunk < chunks)
        ptx::copy_async_16(to + uint32_t(i * kWarpSize * 16), offsets + i * kWarpSize * 16,
                           chunk < offset_chunks_left ? 16 : 0);
    }
    offsets += chunks * 16;
    offset_chunks_left -= chunks;
    if (g.has_factors) {
      const int columns =
          smaller((kOffsetGroups << g.group_shift) / kFactorColumns, kSplitColumns / kFactorColumns);
      if (lane < 4 * columns)
        ptx::copy_async_16(to + Config::kScaleOffset, offset_factors,
                           lane < 4 * factor_columns_left ? 16 : 0);
      offset_factors += columns * 64;
      factor_columns_left -= columns;
    }
  }
};

// Scales of the lane's two rows: [kUnit columns][row], of a stage, or of half of one where eight units would take too
// many registers.
template <class Config>
struct StageScales {
  using Weights = typename Config::Weights;
  static constexpr int kColumns =
      Weights::kUnit == 16 || Config::kTokenTiles > 1 ? 64 : Config::kStageColumns;
  static constexpr int kUnits = kColumns / Weights::kUnit;
  static constexpr int kSteps = kUnits * Weights::kUnit / 16;  // of 16 columns
  float value[kUnits][2];

  // first: column of the stage.
  LLAMA4RT_DEVICE void load(const GeneralArgs& g, const unsigned char* stage, int first, int row) {
    const unsigned char* const scales = stage + Config::kScaleOffset;
    with_number_type(g.numbers, [&](auto number) {
      LLAMA4RT_UNROLL
      for (int u = 0; u < kUnits; ++u) {
        const int group = (first + u * Weights::kUnit) >> group_shift_of<Weights>(g);
        for (int h = 0; h < 2; ++h) value[u][h] = number.at(scales, group * 16 + row + 8 * h);
      }
    });
    if (!g.has_factors) return;
    const auto* factors = reinterpret_cast<const float*>(stage + Config::kFactorOffset) + row;
    const float factor[2] = {factors[0], factors[8]};
    for (int u = 0; u < kUnits; ++u)
      for (int h = 0; h < 2; ++h) value[u][h] = ptx::mul(value[u][h], factor[h]);
  }
};

// The left operands of 16 groups' offsets: of the lane's rows, and columns as of any m16n8k16.
template <class Config>
LLAMA4RT_DEVICE void offset_fragments(uint32_t (&high)[4], uint32_t (&rest)[4], const GeneralArgs& g,
                                      const unsigned char* stage, int lane) {
  float value[4][2];
  const int row = lane / 4;
  with_number_type(g.numbers, [&](auto number) {
    for (int r = 0; r < 4; ++r)
      for (int odd = 0; odd < 2; ++odd)
        value[r][odd] = number.at(stage, (lane % 4 * 2 + odd + 8 * (r / 2)) * 16 + row + 8 * (r % 2));
  });
  if (g.has_factors) {
    const auto* factors = reinterpret_cast<const float*>(stage + Config::kScaleOffset);
    for (int r = 0; r < 4; ++r)
      for (int odd = 0; odd < 2; ++odd) {
        const int column = ((lane % 4 * 2 + odd + 8 * (r / 2)) << g.group_shift) / kFactorColumns;
        // Past the split's groups offsets are 0.
        const int in_stage = smaller(column, kSplitColumns / kFactorColumns - 1);
        value[r][odd] = ptx::mul(value[r][odd], factors[in_stage * 16 + row + 8 * (r % 2)]);
      }
  }
  for (int r = 0; r < 4; ++r) split_pair(high[r], rest[r], value[r][0], value[r][1]);
}

// As multiply_stage.
template <class Config, class Sums>
LLAMA4RT_DEVICE void multiply_general_stage(Sums& sums, const GeneralArgs& g, int lane,
                                            const unsigned char* stage, uint32_t tiles,
                                            const uint32_t (&x_address)[Config::kTokenTiles]) {
  using Weights = typename Config::Weights;
  constexpr int kStepsOfUnit = Weights::kUnit / 16;
  const int row = lane / 4;
  using Scales = StageScales<Config>;
  Scales scales;
  Sums group_sums;
  group_sums.clear();
  U32x4 words;
  auto bias = Weights::bias(g.zero, g.zero);
  uint32_t x[Config::kTokenTiles][4];  // two steps of 16 columns, two registers each
  LLAMA4RT_UNROLL
  for (int step = 0; step < Config::kStageColumns / 16; ++step) {
    if (step % Scales::kSteps == 0) scales.load(g, stage, step * 16, row);
    if (step % 2 == 0)
      for (int i = 0; i < Config::kTokenTiles; ++i)
        ptx::ldmatrix_x4(x[i], x_address[i] + uint32_t(step * 32));
    if (step % Weights::kSteps == 0)
      words = ptx::load_shared_v4(tiles + uint32_t(step / Weights::kSteps * kTileBytes));
    if (Weights::kZeros && step % kStepsOfUnit == 0 && g.has_zeros) {
      const unsigned char* const zeros =
          stage + Config::kZeroOffset + (step * 16 >> group_shift_of<Weights>(g)) * 16 + row;
      bias = Weights::bias(zeros[0], zeros[8]);
    }
    uint32_t w[4];
    Weights::fragment(w, words, step % Weights::kSteps, bias, g);
    for (int i = 0; i < Config::kTokenTiles; ++i)
      ptx::mma_m16n8k16(group_sums.value[i], w, x[i][step % 2 * 2], x[i][step % 2 * 2 + 1]);
    if ((step + 1) % kStepsOfUnit != 0 || !group_begins<Weights>(g, (step + 1) * 16)) continue;
    for (int i = 0; i < Config::kTokenTiles; ++i)
      for (int r = 0; r < 4; ++r)
        sums.value[i][r] =
            ptx::fma(group_sums.value[i][r], scales.value[step % Scales::kSteps / kStepsOfUnit][r / 2],
                     sums.value[i][r]);
    group_sums.clear();
  }
}

// Stages of offsets behind a split of so many columns.
LLAMA4RT_DEVICE int offset_stages(const GeneralArgs& g, int columns) {
  if (g.boxes == 0) return 0;
  return (groups_of_columns(columns, g.group_shift) + kOffsetGroups - 1) / kOffsetGroups;
}

// Stage `c` of a split's offsets times the sums of x. x_address: as in multiply_stage, behind `passed` columns.
template <class Config, class Sums>
LLAMA4RT_DEVICE void add_offsets(Sums& sums, const GeneralArgs& g, int lane, const unsigned char* stage,
                                 const uint32_t (&x_address)[Config::kTokenTiles], int c, int passed) {
  uint32_t high[4], rest[4];
  offset_fragments<Config>(high, rest, g, stage, lane);
  // 16 sums, and 32 columns further on what is left of them.
  constexpr int kStages = kGroupsOfBox / kOffsetGroups;
  const int column = kSplitColumns - passed + c / kStages * kBoxColumns + c % kStages * kOffsetGroups;
  for (int i = 0; i < Config::kTokenTiles; ++i) {
    uint32_t x[4];
    ptx::ldmatrix_x4(x, x_address[i] + uint32_t(column * 2 + lane / 16 * (kGroupsOfBox - 16) * 2));
    ptx::mma_m16n8k16(sums.value[i], high, x[0], x[1]);
    ptx::mma_m16n8k16(sums.value[i], high, x[2], x[3]);
    ptx::mma_m16n8k16(sums.value[i], rest, x[0], x[1]);
  }
}

}  // namespace llama4rt::cuda
