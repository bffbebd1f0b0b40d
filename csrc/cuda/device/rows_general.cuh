// What the linears with many rows of x do otherwise for general weights: which steps a product has, and scales, zero
// points and offsets of any type, read where they are needed.
#pragma once

#include "cuda/device/general_weights.cuh"
#include "cuda/device/group_sums.cuh"
#include "cuda/device/rows_args.cuh"
#include "cuda/device/side_numbers.cuh"
#include "cuda/device/unroll.cuh"
#include "cuda/device/weight_columns.cuh"
#include "cuda/simt.h"

namespace llama4rt::cuda {

// A step of 64 columns of x: of K, or with offsets a box of further columns, behind the steps of its split.
struct GeneralStep {
  int split;
  int step;  // of K; of a box: the split's last
  int box;   // of the split, or -1: of K

  LLAMA4RT_DEVICE bool of_k() const { return box < 0; }
};

LLAMA4RT_DEVICE int steps_of_k(const RowsArgs& a) { return (a.k + kStepColumns - 1) / kStepColumns; }
LLAMA4RT_DEVICE int splits_of_k(const RowsArgs& a) { return (a.k + kSplitColumns - 1) / kSplitColumns; }
LLAMA4RT_DEVICE int general_steps(const RowsArgs& a) {
  return steps_of_k(a) + splits_of_k(a) * a.general.boxes;
}
// Of a split with boxes.
LLAMA4RT_DEVICE int general_steps_of_split(const RowsArgs& a) { return kStepsOfSplit + a.general.boxes; }

LLAMA4RT_DEVICE GeneralStep general_step(const RowsArgs& a, int i) {
  if (a.general.boxes == 0) return {i / kStepsOfSplit, i, -1};
  // Division by a constant is a multiplication.
  const int split = a.general.boxes == 1 ? i / (kStepsOfSplit + 1) : i / (kStepsOfSplit + 2);
  const int in_split = i - split * general_steps_of_split(a);
  const int left = steps_of_k(a) - split * kStepsOfSplit, own = left < kStepsOfSplit ? left : kStepsOfSplit;
  if (in_split < own) return {split, split * kStepsOfSplit + in_split, -1};
  return {split, split * kStepsOfSplit + own - 1, in_split - own};
}

// The numbers beside the codes of one matrix.
struct GeneralTable {
  const GeneralArgs& g;
  const unsigned char* scales;
  const uint8_t* zeros;
  const unsigned char* offsets;
  const float* factors;
  const float* offset_factors;
  int groups;   // of a row
  int columns;  // of factors of a row

  LLAMA4RT_DEVICE GeneralTable(const RowsArgs& a, int expert) : g(a.general) {
    groups = (a.k + (1 << g.group_shift) - 1) >> g.group_shift;
    columns = (a.k + kFactorColumns - 1) / kFactorColumns;
    const int64_t first = expert * a.matrix_scales, first_factor = expert * a.matrix_factors;
    scales = a.scales + first * g.number_bytes;
    zeros = g.has_zeros ? a.zeros + first : nullptr;
    offsets = g.boxes > 0 ? a.weight_offsets + first * g.number_bytes : nullptr;
    factors = g.has_factors ? a.factors + first_factor : nullptr;
    offset_factors = offsets && g.has_factors ? a.offset_factors + first_factor : nullptr;
  }

  // Past the last group x is 0, so any number serves.
  LLAMA4RT_DEVICE int group_at(int group) const { return group < groups ? group : groups - 1; }
  LLAMA4RT_DEVICE int index(int row_block, int group, int row) const {
    return (row_block * groups + group_at(group)) * 16 + row;
  }
  LLAMA4RT_DEVICE float number(const unsigned char* numbers, const float* its_factors, int row_block,
                               int group, int row) const {
    float value = 0;
    const int at = index(row_block, group, row);
    with_number_type(g.numbers, [&](auto number) { value = number.at(numbers, at); });
    if (!g.has_factors) return value;
    const int column = (group_at(group) << g.group_shift) / kFactorColumns;
    return ptx::mul(value, its_factors[(row_block * columns + column) * 16 + row]);
  }
  LLAMA4RT_DEVICE float scale(int row_block, int group, int row) const {
    return number(scales, factors, row_block, group, row);
  }
  LLAMA4RT_DEVICE float offset(int row_block, int group, int row) const {
    return number(offsets, offset_factors, row_block, group, row);
  }
  LLAMA4RT_DEVICE int zero(int row_block, int group, int row) const {
    return zeros ? int(zeros[index(row_block, group, row)]) : g.zero;
  }
};

// The products of a box of further columns, in their order: product(operand, k16) multiplies 16 groups' offsets of the
// lane's rows (row[h] of row_block[h]) with columns 16 k16.. of the box.
template <class Product>
LLAMA4RT_DEVICE void each_offset_product(const GeneralTable& table, const GeneralStep& step,
                                         const int (&row_block)[2], const int (&row)[2],
                                         const bool (&here)[2], const Product& product) {
  const int first = step.split * (kSplitColumns >> table.g.group_shift) + step.box * kGroupsOfBox;
  for (int c = 0; c < kGroupsOfBox / 16 && first + 16 * c < table.groups; ++c) {
    if ((step.box * kGroupsOfBox + 16 * c) << table.g.group_shift >= kSplitColumns)
      break;  // the next split's
    uint32_t high[4], rest[4];
    LLAMA4RT_UNROLL
    for (int r = 0; r < 4; ++r) {
      const int h = r % 2, group = first + 16 * c + lane_index() % 4 * 2 + 8 * (r / 2);
      float value[2] = {0, 0};
      for (int odd = 0; odd < 2; ++odd)
        if (here[h]) value[odd] = table.offset(row_block[h], group + odd, row[h]);
      split_pair(high[r], rest[r], value[0], value[1]);
    }
    product(high, c);
    product(high, c + kGroupsOfBox / 16);
    product(rest, c);
  }
}

}  // namespace llama4rt::cuda
