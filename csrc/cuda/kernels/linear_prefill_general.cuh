// The weights of a step of linear_prefill.cuh, and what its consumers do with them, when they are general weights.
#pragma once

#include "cuda/device/rows_general.cuh"
#include "cuda/device/rows_out.cuh"
#include "cuda/device/unroll.cuh"
#include "cuda/ptx/mbarrier.cuh"
#include "cuda/ptx/wgmma.cuh"

namespace llama4rt::cuda {

// One step's weights, and the scales of its units. Zero points are read when they are needed: few weights have some,
// and registers are short. Rows: LaneRows.
template <class Config, class Rows>
struct GeneralStepWeights {
  using Weights = typename Config::Weights;
  typename Config::Columns columns[2];  // of the lane's two rows
  float scale[Config::kParts][2];

  // Waits for the stage.   step: of K
  template <class Place>
  LLAMA4RT_DEVICE void load(const RowsArgs& args, const GeneralTable& table, const Rows& rows,
                            const int (&row_block)[2], const bool (&here)[2], int step, const Place& place) {
    LLAMA4RT_UNROLL
    for (int part = 0; part < Config::kParts; ++part) {
      const int group = (step * kStepColumns + part * Weights::kUnit) >> table.g.group_shift;
      for (int h = 0; h < 2; ++h)
        scale[part][h] = here[h] ? table.scale(row_block[h], group, rows.row(h)) : 0.0f;
    }
    const uint32_t weights = place.memory() + uint32_t(Config::kXBytes);
    const int tiles = tiles_of_step<Weights>(args, step);
    ptx::mbarrier_wait(place.full(), place.parity);
    for (int h = 0; h < 2; ++h) {
      if (h == 1 && rows.block[1] == rows.block[0])
        columns[1] = columns[0];
      else if (here[h])
        columns[h].load(weights + uint32_t(rows.block[h] * Config::Columns::kBytes), tiles);
      else
        columns[h].clear();
    }
  }

  // wgmma's operand of columns 16 k16...
  LLAMA4RT_DEVICE void fragment(uint32_t (&a)[4], int k16, const Rows& rows,
                                const typename Weights::Bias& bias, const GeneralArgs& g) const {
    const int at = k16 / Weights::kSteps, step = k16 % Weights::kSteps;
    if (rows.block[0] == rows.block[1]) {
      Weights::fragment(a, columns[0].words[at], step, bias, g);
    } else {
      for (int r = 0; r < 4; ++r)
        a[r] = Weights::pair(columns[r % 2].words[at], step, r / 2, rows.half[r % 2], bias, r % 2, g);
    }
    ptx::computed_by_here(a);
  }
};

// As consume(), for one tile.
template <class Config, class Rows, class Place>
LLAMA4RT_DEVICE void consume_general(const RowsArgs& a, int expert, int first_row_block, const Rows& rows,
                                     Place& place, float* totals, float (&sums)[Config::kSums]) {
  using Weights = typename Config::Weights;
  constexpr int kPerPart = 4 / Config::kParts;  // wgmmas
  const GeneralTable table(a, expert);
  const int row_block[2] = {first_row_block + rows.block[0], first_row_block + rows.block[1]};
  const int row[2] = {rows.row(0), rows.row(1)};
  const bool here[2] = {row_block[0] * 16 < a.n, row_block[1] * 16 < a.n};
  const int steps = general_steps(a), steps_of_split = general_steps_of_split(a);
  const int last_step = steps_of_k(a) - 1;
  const auto x_at = [&](const Place& p, int k16) {
    return ptx::wgmma_descriptor(p.memory() + uint32_t(k16 * 32), 16, 1024, Swizzle::k128B);
  };
  float group_sums[Config::kSums] = {};
  GeneralStepWeights<Config, Rows> weights, next{};
  weights.load(a, table, rows, row_block, here, 0, place);
  for (int i = 0; i < steps; ++i) {
    const Place now = place;
    place.advance();
    const GeneralStep step = general_step(a, i), after = general_step(a, i + 1);
    const bool load_next = i + 1 < steps && after.of_k();
    if (step.of_k()) {
      uint32_t operand[4][4];
      LLAMA4RT_UNROLL
      for (int part = 0; part < Config::kParts; ++part) {
        auto bias = Weights::bias(table.g.zero, table.g.zero);
        if (Weights::kZeros && table.g.has_zeros && here[0] && here[1]) {
          const int group = (step.step * kStepColumns + part * Weights::kUnit) >> table.g.group_shift;
          bias =
              Weights::bias(table.zero(row_block[0], group, row[0]), table.zero(row_block[1], group, row[1]));
        }
        LLAMA4RT_UNROLL
        for (int k16 = part * kPerPart; k16 < (part + 1) * kPerPart; ++k16)
          weights.fragment(operand[k16], k16, rows, bias, table.g);
      }
      LLAMA4RT_UNROLL
      for (int part = 0; part < Config::kParts; ++part) {
        const int column = step.step * kStepColumns + part * Weights::kUnit;
        ptx::wgmma_fence();
        LLAMA4RT_UNROLL
        for (int j = 0; j < kPerPart; ++j) {
          const bool goes_on = j > 0 || !group_begins<Weights>(table.g, column);  // the group
          ptx::wgmma_m64n128k16(group_sums, operand[part * kPerPart + j], x_at(now, part * kPerPart + j),
                                goes_on);
        }
        ptx::wgmma_commit();
        if (part == 0 && load_next) next.load(a, table, rows, row_block, here, after.step, place);
        ptx::wgmma_wait<0>();
        if (part + 1 == Config::kParts) {
          ptx::sync_warp(0xffffffffu);  // all lanes have read their weights; wgmma orders its own reads alone
          if (lane_index() == 0) ptx::mbarrier_arrive(now.empty());
        }
        const bool at_end = step.step == last_step && part + 1 == Config::kParts;
        if (!group_begins<Weights>(table.g, column + Weights::kUnit) && !at_end) continue;
        LLAMA4RT_UNROLL
        for (int j = 0; j < Config::kSums; ++j)
          sums[j] = ptx::fma(group_sums[j], weights.scale[part][j % 4 / 2], sums[j]);
      }
    } else {
      ptx::mbarrier_wait(now.full(), now.parity);
      each_offset_product(table, step, row_block, row, here, [&](uint32_t (&w)[4], int k16) {
        ptx::computed_by_here(w);
        ptx::wgmma_fence();
        ptx::wgmma_m64n128k16(sums, w, x_at(now, k16), true);
        ptx::wgmma_commit();
        ptx::wgmma_wait<0>();
      });
      if (lane_index() == 0) ptx::mbarrier_arrive(now.empty());
      if (load_next) next.load(a, table, rows, row_block, here, after.step, place);
    }
    weights = next;

    if (a.k <= kSplitColumns) continue;
    const bool last = i + 1 == steps, first = i < steps_of_split;
    if ((i + 1) % steps_of_split != 0 && !last) continue;
    LLAMA4RT_UNROLL
    for (int j = 0; j < Config::kSums; ++j) {
      const float total = first ? sums[j] : totals[j * Config::kConsumers] + sums[j];
      totals[j * Config::kConsumers] = total;
      sums[j] = last ? total : 0.0f;
    }
  }
}

}  // namespace llama4rt::cuda
