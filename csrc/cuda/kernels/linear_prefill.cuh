// Linear for hundreds of rows of x on Hopper: wgmma, the weights as its operand in registers, x as its
// operand in shared memory.
//
//   out[t, n] = sum_k bf16(x[t, k]) * w[n, k]
//
// A block of three warp groups takes tiles of 128 rows of w and 128 rows of x (which all meet the same
// matrix), one after the other; K goes by in steps of 64 columns, through a ring of 6 stages:
//
//   producer: warp 0 of warp group 0           stage              consumers: warp groups 1 and 2,
//   64 registers a thread                                         64 rows of w each, 216 registers a thread
//   ------------------------------------    +-----------+         ------------------------------------------
//   wait until the stage is empty           |           |         wait until the stage is full
//   x: a box of 128 x 64 bf16, by TMA       |   16 KB   |  ---->  x is operand b (128-byte swizzle)
//   w: 8 row blocks of 16 rows, bulk        | 4 (int4), |  ---->  a lane reads its bytes of w and makes
//      copies of 512 (int4), 1024 (int8)    | 8 (int8), |         bf16 of them: operand a
//      or 2048 (bf16) bytes                 |  16 KB    |         four wgmma m64n128k16; while they run, the
//                                           |  (bf16)   |         lane reads w of the next step
//                                           +-----------+  <----  the stage is empty
//                                                                 at the end of a weight group:
//                                                                 sums += sums of the group * scale
//
// While one group of consumers turns weights into bf16 and scales sums, the tensor cores work for the other.
// Totals over splits of K (1024 columns) are kept in shared memory, each thread its own. The order of
// additions is that of device/weight_tiles.cuh.
//
// General weights have consumers of their own (linear_prefill_general.cuh), and with offsets further steps behind each
// split.
//
// Rows of w within a warp: with SwiGLU half of its 16 rows are gates and the other half the ups of the same
// outputs, so that one thread has both.
#pragma once

#include "cuda/device/overlap.cuh"
#include "cuda/device/rows_args.cuh"
#include "cuda/device/rows_out.cuh"
#include "cuda/device/unroll.cuh"
#include "cuda/kernels/linear_prefill_general.cuh"
#include "cuda/ptx/mbarrier.cuh"
#include "cuda/ptx/tma.cuh"
#include "cuda/ptx/wgmma.cuh"

namespace llama4rt::cuda {

template <class WeightsType>
struct LinearPrefillConfig {
  using Weights = WeightsType;
  using Columns = WeightColumns<Weights>;
  static constexpr int kGroupThreads = 128;  // of a warp group
  static constexpr int kConsumers = 2 * kGroupThreads;
  static constexpr int kThreads = kGroupThreads + kConsumers;
  static constexpr int kConsumerWarps = kConsumers / kWarpSize;
  static constexpr int kRowBlocks = 8;  // of 16 rows of w
  static constexpr int kRows = 16 * kRowBlocks;
  static constexpr int kTokens = 128;
  static constexpr int kSums = kTokens / 2;  // of a thread
  // Tiles of x that a row of tiles of w passes before the next: x of so many is read again and again from the
  // second cache.
  static constexpr int kBand = 8;
  // Weight groups that end in a step, and steps of a group.
  static constexpr int kParts = Weights::kGroup < kStepColumns ? kStepColumns / Weights::kGroup : 1;
  static constexpr int kStepsOfGroup = Weights::kGroup < kStepColumns ? 1 : Weights::kGroup / kStepColumns;
  // 65536 registers of a multiprocessor: 128 * 64 + 256 * 216.
  static constexpr int kProducerRegisters = 64;
  static constexpr int kConsumerRegisters = 216;

  // Shared memory, in bytes; a box of x starts at a multiple of 1024.
  static constexpr int kXBytes = kTokens * kStepColumns * 2;
  static constexpr int kStageBytes = kXBytes + kRowBlocks * Columns::kBytes;
  static constexpr int kStages = 6;
  static constexpr int kTotalsOffset = kStages * kStageBytes;
  static constexpr int kTotalsBytes = Weights::kScaled ? kSums * kConsumers * 4 : 0;
  static constexpr int kBarrierOffset = kTotalsOffset + kTotalsBytes;
  static constexpr int kSharedBytes = kBarrierOffset + 2 * kStages * 8;
  static_assert(kStageBytes % 1024 == 0 && kSharedBytes <= 227 * 1024);
};

// A place in the ring of stages, and the parity of the phase that fills it.
template <class Config>
struct RingPlace {
  int stage = 0;
  uint32_t parity = 0;

  LLAMA4RT_DEVICE void advance() {
    if (++stage < Config::kStages) return;
    stage = 0;
    parity ^= 1u;
  }
  LLAMA4RT_DEVICE uint32_t memory() const {
    return ptx::shared_address(dynamic_shared()) + uint32_t(stage * Config::kStageBytes);
  }
  LLAMA4RT_DEVICE uint32_t full() const {
    return ptx::shared_address(dynamic_shared()) + uint32_t(Config::kBarrierOffset + stage * 8);
  }
  LLAMA4RT_DEVICE uint32_t empty() const { return full() + uint32_t(Config::kStages * 8); }
};

// The tiles of a launch in their order, a block's share of it.
template <class Config>
class PrefillWork {
 public:
  LLAMA4RT_DEVICE PrefillWork(const RowsArgs& a, const RowTiles& tiles)
      : tiles_(tiles), row_tiles_(div_up(a.n, Config::kRows)), index_(block_x()) {}

  LLAMA4RT_DEVICE bool more() const { return index_ < tiles_.total() * row_tiles_; }
  LLAMA4RT_DEVICE void next() { index_ += grid_x(); }
  // Bands of kBand tiles of x; in a band row tiles of w, in a row tile the tiles of x. All lanes of a warp
  // together.
  LLAMA4RT_DEVICE void get(RowTile& tile, int& first_row_block) const {
    const int band = index_ / (Config::kBand * row_tiles_), first = band * Config::kBand;
    const int left = tiles_.total() - first, width = left < Config::kBand ? left : Config::kBand;
    const int in_band = index_ - first * row_tiles_;
    tile = tiles_.at(first + in_band % width);
    first_row_block = in_band / width * Config::kRowBlocks;
  }

 private:
  const RowTiles& tiles_;
  int row_tiles_;
  int index_;
};

// --- the producer

template <class Config>
LLAMA4RT_DEVICE void load_step(const RowsArgs& a, const TensorMap* x_map, const RowTile& tile,
                               int first_row_block, int step, const RingPlace<Config>& to) {
  using Weights = typename Config::Weights;
  int step_of_k = step, tiles;
  if constexpr (Weights::kGeneral) {
    const GeneralStep general = general_step(a, step);
    step_of_k = general.step;
    tiles = general.of_k() ? tiles_of_step<Weights>(a, step_of_k) : 0;
  } else {
    tiles = tiles_of_step<Weights>(a, step);
  }
  const int left = div_up(a.n, 16) - first_row_block;
  const int blocks = left < Config::kRowBlocks ? left : Config::kRowBlocks;
  ptx::mbarrier_arrive_expect(to.full(), Config::kXBytes + blocks * tiles * kTileBytes);
  ptx::tensor_load_2d(to.memory(), x_map, tile.first_row, step * kStepColumns, to.full());
  if (Weights::kGeneral && tiles == 0) return;
  const uint32_t weights = to.memory() + uint32_t(Config::kXBytes);
  for (int i = 0; i < blocks; ++i)
    ptx::bulk_load(weights + uint32_t(i * Config::Columns::kBytes),
                   weights_of<Weights>(a, tile.expert, first_row_block + i, step_of_k), tiles * kTileBytes,
                   to.full());
}

template <class Config>
LLAMA4RT_DEVICE void produce(const RowsArgs& a, const TensorMap* x_map, const RowTiles& tiles) {
  const int steps = Config::Weights::kGeneral ? general_steps(a) : div_up(a.k, kStepColumns);
  RingPlace<Config> place;
  for (PrefillWork<Config> work(a, tiles); work.more(); work.next()) {
    RowTile tile;
    int first_row_block;
    work.get(tile, first_row_block);
    for (int step = 0; step < steps; ++step) {
      if (lane_index() == 0) {
        ptx::mbarrier_wait(place.empty(), place.parity ^ 1u);  // an unused stage is empty
        load_step<Config>(a, x_map, tile, first_row_block, step, place);
      }
      place.advance();
    }
  }
}

// --- the consumers

// Where the two rows of a lane, g and g + 8 of wgmma's, are: row blocks of the tile and halves of them.
struct LaneRows {
  int block[2];
  int half[2];

  LLAMA4RT_DEVICE LaneRows(int consumer_warp, bool swiglu) {
    for (int h = 0; h < 2; ++h) {
      block[h] = swiglu ? consumer_warp / 2 * 2 + h : consumer_warp;
      half[h] = swiglu ? consumer_warp % 2 : h;
    }
  }
  LLAMA4RT_DEVICE int row(int h) const { return 8 * half[h] + lane_index() / 4; }  // of its block
};

// One step's weights, and the scales and zero points of its groups.
template <class Config>
struct StepWeights {
  using Weights = typename Config::Weights;
  typename Config::Columns columns[2];  // of the lane's two rows
  typename Weights::Bias bias[Config::kParts];
  float scale[Config::kParts][2];

  // Waits for the stage.
  LLAMA4RT_DEVICE void load(const RowsArgs& args, const ScaleTable& table, const LaneRows& rows,
                            int first_row_block, int step, const RingPlace<Config>& place) {
    bool here[2];
    for (int h = 0; h < 2; ++h) here[h] = (first_row_block + rows.block[h]) * 16 < args.n;
    LLAMA4RT_UNROLL
    for (int part = 0; part < Config::kParts; ++part) {
      int zero[2] = {8, 8};
      for (int h = 0; h < 2; ++h) {
        scale[part][h] = 0.0f;
        if (!Weights::kScaled || !here[h]) continue;
        const int group = step * kStepColumns / Weights::kGroup + part;
        const int at = table.index(first_row_block + rows.block[h], group, rows.row(h));
        scale[part][h] = table.scale(at);
        zero[h] = table.zero(at);
      }
      bias[part] = Weights::bias(zero[0], zero[1]);
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
  LLAMA4RT_DEVICE void fragment(uint32_t (&a)[4], int k16, const LaneRows& rows) const {
    for (int r = 0; r < 4; ++r)
      a[r] = Weights::pair(columns[r % 2].words[k16 / Weights::kSteps], k16 % Weights::kSteps, r / 2,
                           rows.half[r % 2], bias[k16 * Config::kParts / 4], r % 2);
    ptx::computed_by_here(a);
  }
};

// Writes the sums of one tile to the outputs.
template <class Config>
LLAMA4RT_DEVICE void finish(const RowsArgs& a, const RowTile& tile, int first_row_block, const LaneRows& rows,
                            const float (&sums)[Config::kSums]) {
  const int block[2] = {first_row_block + rows.block[0], first_row_block + rows.block[1]};
  LLAMA4RT_UNROLL
  for (int i = 0; i < Config::kTokens / 4; ++i) {
    const int token = i / 2 * 8 + lane_index() % 4 * 2 + i % 2, r = i / 2 * 4 + i % 2;
    if (token >= tile.num_rows) continue;
    const int to = out_row(a, tile, token);
    if (a.finish == Finish::kSwiGlu) {
      put_swiglu(a, to, block[0] / 2 * 16 + rows.row(0), sums[r], sums[r + 2]);
    } else {
      put_sum(a, to, block[0] * 16 + rows.row(0), sums[r]);
      put_sum(a, to, block[1] * 16 + rows.row(1), sums[r + 2]);
    }
  }
}

// The sums of one tile.
template <class Config>
LLAMA4RT_DEVICE void consume_tile(const RowsArgs& a, const RowTile& tile, int first_row_block,
                                  const LaneRows& rows, RingPlace<Config>& place, float* totals,
                                  float (&sums)[Config::kSums]) {
  using Weights = typename Config::Weights;
  constexpr int kPerPart = 4 / Config::kParts;  // wgmmas
  const int steps = div_up(a.k, kStepColumns);
  const ScaleTable table = scales_of<Weights>(a, tile.expert);
  float group_sums[Config::kSums] = {};
  StepWeights<Config> weights, next{};
  weights.load(a, table, rows, first_row_block, 0, place);
  for (int step = 0; step < steps; ++step) {
    const RingPlace<Config> now = place;
    place.advance();
    uint32_t operand[4][4];
    LLAMA4RT_UNROLL
    for (int k16 = 0; k16 < 4; ++k16) weights.fragment(operand[k16], k16, rows);
    LLAMA4RT_UNROLL
    for (int part = 0; part < Config::kParts; ++part) {
      ptx::wgmma_fence();
      LLAMA4RT_UNROLL
      for (int i = 0; i < kPerPart; ++i) {
        const int k16 = part * kPerPart + i;
        const uint64_t x = ptx::wgmma_descriptor(now.memory() + uint32_t(k16 * 32), 16, 1024, Swizzle::k128B);
        const bool goes_on = i > 0 || step % Config::kStepsOfGroup != 0;  // the group
        ptx::wgmma_m64n128k16(group_sums, operand[k16], x, goes_on);
      }
      ptx::wgmma_commit();
      if (part == 0 && step + 1 < steps) next.load(a, table, rows, first_row_block, step + 1, place);
      ptx::wgmma_wait<0>();
      if (part + 1 == Config::kParts) {
        ptx::sync_warp(0xffffffffu);  // all lanes have read their weights; wgmma orders its own reads alone
        if (lane_index() == 0) ptx::mbarrier_arrive(now.empty());
      }
      if ((step + 1) % Config::kStepsOfGroup != 0 && step + 1 < steps) continue;
      LLAMA4RT_UNROLL
      for (int i = 0; i < Config::kSums; ++i)
        sums[i] = Weights::kScaled ? ptx::fma(group_sums[i], weights.scale[part][i % 4 / 2], sums[i])
                                   : sums[i] + group_sums[i];
    }
    weights = next;

    if (!Weights::kScaled || steps <= kStepsOfSplit) continue;
    const bool last = step + 1 == steps, first = step < kStepsOfSplit;
    if ((step + 1) % kStepsOfSplit != 0 && !last) continue;
    LLAMA4RT_UNROLL
    for (int i = 0; i < Config::kSums; ++i) {
      const float total = first ? sums[i] : totals[i * Config::kConsumers] + sums[i];
      totals[i * Config::kConsumers] = total;
      sums[i] = last ? total : 0.0f;
    }
  }
}

template <class Config>
LLAMA4RT_DEVICE void consume(const RowsArgs& a, const RowTiles& tiles) {
  const int thread = thread_x() - Config::kGroupThreads;
  const LaneRows rows(thread / kWarpSize, a.finish == Finish::kSwiGlu);
  auto* const totals = reinterpret_cast<float*>(dynamic_shared() + Config::kTotalsOffset) + thread;
  RingPlace<Config> place;
  for (PrefillWork<Config> work(a, tiles); work.more(); work.next()) {
    RowTile tile;
    int first_row_block;
    work.get(tile, first_row_block);
    float sums[Config::kSums] = {};
    if constexpr (Config::Weights::kGeneral)
      consume_general<Config>(a, tile.expert, first_row_block, rows, place, totals, sums);
    else
      consume_tile<Config>(a, tile, first_row_block, rows, place, totals, sums);
    finish<Config>(a, tile, first_row_block, rows, sums);
  }
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    linear_prefill_kernel(RowsArgs a, const __grid_constant__ TensorMap x_map) {
  if constexpr (ptx::kHasWgmma) {
    if (thread_x() == 0)
      for (int i = 0; i < Config::kStages; ++i) {
        const RingPlace<Config> place{.stage = i};
        ptx::mbarrier_init(place.full(), 1);
        ptx::mbarrier_init(place.empty(), Config::kConsumerWarps);
      }
    ptx::fence_mbarrier_init();
    ptx::sync_threads();
    wait_for_kernel_before();

    const RowTiles tiles(a.offsets, a.num_experts, a.num_rows, Config::kTokens);
    if (warp_index() < Config::kGroupThreads / kWarpSize) {
      ptx::fewer_registers<Config::kProducerRegisters>();
      if (warp_index() == 0) produce<Config>(a, &x_map, tiles);
    } else {
      ptx::more_registers<Config::kConsumerRegisters>();
      consume<Config>(a, tiles);
    }
  }
}

}  // namespace llama4rt::cuda
