// The steps of linear_medium.cuh for general weights, 16 columns at a time: a group may end behind any of them.
#pragma once

#include "cuda/device/rows_general.cuh"
#include "cuda/device/unroll.cuh"

namespace llama4rt::cuda {

// multiply(w, k16): the left operands of the warp's row blocks times columns 16 k16.. of the step. each_sum(function):
// function(group's sum, sum, row block of the warp, register of m16n8).
template <class Weights, int kBlocks, class Multiply, class EachSum>
LLAMA4RT_DEVICE void multiply_general_step(const RowsArgs& a, const GeneralTable& table,
                                           const GeneralStep& step, int row_block,
                                           WeightColumns<Weights> (&columns)[kBlocks],
                                           const Multiply& multiply, const EachSum& each_sum) {
  const int row = lane_index() / 4;
  const bool last = step.step + 1 == steps_of_k(a);
  typename Weights::Bias bias[kBlocks];
  float factor[kBlocks][2] = {};
  for (int j = 0; j < kBlocks; ++j) bias[j] = Weights::bias(table.g.zero, table.g.zero);
  LLAMA4RT_ROLL
  for (int k16 = 0; k16 < kStepColumns / 16; ++k16) {
    const int column = step.step * kStepColumns + k16 * 16, group = column >> table.g.group_shift;
    if (k16 == 0 || group_begins<Weights>(table.g, column)) {
      LLAMA4RT_UNROLL
      for (int j = 0; j < kBlocks; ++j) {
        if ((row_block + j) * 16 >= a.n) continue;
        for (int h = 0; h < 2; ++h) factor[j][h] = table.scale(row_block + j, group, row + 8 * h);
        if (Weights::kZeros && table.g.has_zeros)
          bias[j] =
              Weights::bias(table.zero(row_block + j, group, row), table.zero(row_block + j, group, row + 8));
      }
    }
    uint32_t w[kBlocks][4];
    LLAMA4RT_UNROLL
    for (int j = 0; j < kBlocks; ++j) {
      Weights::fragment(w[j], columns[j].words[0], 0, bias[j], table.g);
      columns[j].skip_step();
    }
    multiply(w, k16);
    if (group_begins<Weights>(table.g, column + 16) || (last && k16 + 1 == kStepColumns / 16))
      each_sum([&](float& group_sum, float& sum, int j, int r) {
        sum = ptx::fma(group_sum, factor[j][r / 2], sum);
        group_sum = 0.0f;
      });
  }
}

}  // namespace llama4rt::cuda
