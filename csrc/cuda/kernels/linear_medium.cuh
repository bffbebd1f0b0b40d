// Linear for tens of rows of x, and for any number on GPUs without wgmma: mma.m16n8k16 with both operands
// through a ring of shared memory.
//
//   out[t, n] = sum_k bf16(x[t, k]) * w[n, k]
//
// A block takes 128 rows of w and up to 64 rows of x, which all meet the same matrix; K goes by in steps of
// 64 columns:
//
//             k: steps of 64 columns             shared memory: a ring of 4 stages (bf16: 3), by cp.async
//            +------+------+-- ... --+            +-------------------------------------------------------+
//   warp 0   |  32 rows of w         |            | x of a step: 64 rows of [64 + 8 of padding] bf16      |
//            +------+------+-- ... --+            +-------------------------------------------------------+
//   warp 1   |  32 rows              |            | w of a step: 8 row blocks of 16 rows, each of         |
//            +------+------+-- ... --+            |              512 (int4), 1024 (int8), 2048 (bf16) B   |
//   warp 2   |  32 rows              |            +-------------------------------------------------------+
//            +------+------+-- ... --+            and where splits follow each other in a block:
//   warp 3   |  32 rows              |            +-------------------------------------------------------+
//            +------+------+-- ... --+            | totals: [64 sums of a thread][128 threads] fp32       |
//             step 0 step 1                       +-------------------------------------------------------+
//   32 rows = 2 row blocks of 16
//
// The padding lets ldmatrix read x without bank conflicts; w is in fragment order (device/weight_tiles.cuh).
// A warp turns a weight into bf16 once and multiplies it with all 64 rows of x. With SwiGLU its two row
// blocks are a gate block and the up block of the same outputs, so SwiGLU needs no exchange between warps.
//
// Splits of K (1024 columns) either run beside each other, to fill the GPU: grid y is their number, sums meet
// in global memory, and the last block adds them. Or they run one after the other in one block: grid y is 1,
// and each thread keeps its own totals in shared memory. The bits are the same, and those of linear_decode.
//
// General weights go by in steps of 16 columns (linear_medium_general.cuh); with offsets each split has further steps.
#pragma once

#include "cuda/device/overlap.cuh"
#include "cuda/device/rows_args.cuh"
#include "cuda/device/rows_out.cuh"
#include "cuda/device/unroll.cuh"
#include "cuda/kernels/linear_medium_general.cuh"
#include "cuda/ptx/cp_async.cuh"
#include "cuda/ptx/matrix.cuh"
#include "cuda/ptx/sync.cuh"

namespace llama4rt::cuda {

template <class WeightsType>
struct LinearMediumConfig {
  using Weights = WeightsType;
  using Columns = WeightColumns<Weights>;
  static constexpr int kWarps = 4;
  static constexpr int kThreads = kWarps * kWarpSize;
  static constexpr int kBlocksOfWarp = 2;  // row blocks of 16
  static constexpr int kRowBlocks = kWarps * kBlocksOfWarp;
  static constexpr int kRows = 16 * kRowBlocks;
  static constexpr int kTokenTiles = 8;  // of 8 rows of x
  static constexpr int kTokens = 8 * kTokenTiles;
  static constexpr int kSums = kBlocksOfWarp * kTokenTiles * 4;  // of a thread
  static constexpr int kXStride = kStepColumns + 8;
  // Weight groups that end in a step, and steps of a group.
  static constexpr int kParts = Weights::kGroup < kStepColumns ? kStepColumns / Weights::kGroup : 1;
  static constexpr int kStepsOfGroup = Weights::kGroup < kStepColumns ? 1 : Weights::kGroup / kStepColumns;

  // Shared memory, in bytes.
  static constexpr int kXBytes = kTokens * kXStride * 2;
  static constexpr int kStageBytes = kXBytes + kRowBlocks * Columns::kBytes;
  static constexpr int kStages = Columns::kTiles == 4 ? 3 : 4;
  static constexpr int kRingBytes = kStages * kStageBytes;
  static constexpr int shared_bytes(bool keeps_totals) {
    return kRingBytes + (keeps_totals ? kSums * kThreads * 4 : 0);
  }
};

// Position and pointers of one block.
template <class Config>
struct MediumBlock {
  using Weights = typename Config::Weights;
  const RowsArgs& a;
  RowTile tile;
  ScaleTable scales;
  int first_row_block;        // of the block
  int row_block;              // of 16 rows, this warp's first
  int first_step, num_steps;  // of 64 columns
  int steps_of_split;
  unsigned char* ring;  // [kStages][x, then w]
  float* totals;        // [kSums][kThreads]

  LLAMA4RT_DEVICE MediumBlock(const RowsArgs& args, const RowTile& rows) : a(args), tile(rows) {
    scales = scales_of<Weights>(a, tile.expert);
    first_row_block = block_x() * Config::kRowBlocks;
    row_block = first_row_block + warp_index() * Config::kBlocksOfWarp;
    const int steps = Weights::kGeneral ? general_steps(a) : div_up(a.k, kStepColumns);
    steps_of_split = Weights::kGeneral ? general_steps_of_split(a) : kStepsOfSplit;
    first_step = grid_y() == 1 ? 0 : block_y() * steps_of_split;
    num_steps = steps - first_step;
    if (grid_y() > 1 && num_steps > steps_of_split) num_steps = steps_of_split;
    ring = dynamic_shared();
    totals = reinterpret_cast<float*>(ring + Config::kRingBytes);
  }
  LLAMA4RT_DEVICE bool has_rows(int block) const { return block * 16 < a.n; }

  // Step `i` of the block into its stage; past the end only the group is counted.
  LLAMA4RT_DEVICE void load_step(int i) const {
    if (i < num_steps) {
      const uint32_t stage = ptx::shared_address(ring) + uint32_t(i % Config::kStages * Config::kStageBytes);
      const int step = first_step + i;
      load_x(stage, step);
      if constexpr (Weights::kGeneral) {
        const GeneralStep general = general_step(a, step);
        if (general.of_k()) load_weights(stage + uint32_t(Config::kXBytes), general.step);
      } else {
        load_weights(stage + uint32_t(Config::kXBytes), step);
      }
    }
    ptx::copy_commit();
  }
  // Zeros for rows of x that are missing.
  LLAMA4RT_DEVICE void load_x(uint32_t to, int step) const {
    constexpr int kChunks = kStepColumns / 8;  // of 16 bytes in a row
    for (int i = thread_x(); i < Config::kTokens * kChunks; i += Config::kThreads) {
      const int token = i / kChunks, chunk = i % kChunks;
      const bool here = token < tile.num_rows;
      const uint16_t* from =
          a.x + int64_t(tile.first_row + (here ? token : 0)) * a.x_stride + step * kStepColumns + chunk * 8;
      ptx::copy_async_16(to + uint32_t((token * Config::kXStride + chunk * 8) * 2), from, here ? 16 : 0);
    }
  }
  // Zeros for tiles past K; row blocks past N are left out.
  LLAMA4RT_DEVICE void load_weights(uint32_t to, int step) const {
    constexpr int kChunks = Config::Columns::kBytes / 16;
    const int tiles = tiles_of_step<Weights>(a, step);
    for (int i = thread_x(); i < Config::kRowBlocks * kChunks; i += Config::kThreads) {
      const int block = i / kChunks, chunk = i % kChunks;
      if (!has_rows(first_row_block + block)) break;
      const bool here = chunk / (kTileBytes / 16) < tiles;
      const unsigned char* from = weights_of<Weights>(a, tile.expert, first_row_block + block, step);
      ptx::copy_async_16(to + uint32_t(i * 16), here ? from + chunk * 16 : from, here ? 16 : 0);
    }
  }
};

// [row block of the warp][tile of 8 rows of x][register of m16n8]
template <class Config>
struct MediumSums {
  float value[Config::kBlocksOfWarp][Config::kTokenTiles][4];

  template <class Function>
  LLAMA4RT_DEVICE void each(const Function& function) {
    LLAMA4RT_UNROLL
    for (int b = 0; b < Config::kBlocksOfWarp; ++b) {
      LLAMA4RT_UNROLL
      for (int i = 0; i < Config::kTokenTiles; ++i) {
        for (int r = 0; r < 4; ++r) function(value[b][i][r], b, i, r);
      }
    }
  }
  LLAMA4RT_DEVICE void clear() {
    each([](float& v, int, int, int) { v = 0.0f; });
  }
};

// Columns 16 `k16` .. of tiles i and i + 1 of x.
template <class Config>
LLAMA4RT_DEVICE void load_x_tiles(uint32_t (&x)[4], uint32_t x_address, int i, int k16) {
  // Lanes 0-7, 8-15, 16-23, 24-31 give rows of (tile 0, columns 0-7), (0, 8-15), (1, 0-7), ...
  const int lane = lane_index();
  const uint32_t row =
      x_address + uint32_t(((lane / 16 * 8 + lane % 8) * Config::kXStride + lane / 8 % 2 * 8 + k16 * 16) * 2);
  ptx::ldmatrix_x4(x, row + uint32_t(i * 8 * Config::kXStride * 2));
}

// Columns 16 `k16` .. of a step.
template <class Config>
LLAMA4RT_DEVICE void multiply_k16(MediumSums<Config>& sums, const uint32_t (&w)[Config::kBlocksOfWarp][4],
                                  uint32_t x_address, int num_rows, int k16) {
  LLAMA4RT_UNROLL
  for (int i = 0; i < Config::kTokenTiles; i += 2)
    if (i * 8 < num_rows) {
      uint32_t x[4];
      load_x_tiles<Config>(x, x_address, i, k16);
      for (int b = 0; b < Config::kBlocksOfWarp; ++b) {
        ptx::mma_m16n8k16(sums.value[b][i], w[b], x[0], x[1]);
        ptx::mma_m16n8k16(sums.value[b][i + 1], w[b], x[2], x[3]);
      }
    }
}

// The same of row block `block` of the warp alone.
template <class Config>
LLAMA4RT_DEVICE void multiply_row_block(MediumSums<Config>& sums, const uint32_t (&w)[4], int block,
                                        uint32_t x_address, int num_rows, int k16) {
  LLAMA4RT_UNROLL
  for (int i = 0; i < Config::kTokenTiles; i += 2)
    if (i * 8 < num_rows) {
      uint32_t x[4];
      load_x_tiles<Config>(x, x_address, i, k16);
      ptx::mma_m16n8k16(sums.value[block][i], w, x[0], x[1]);
      ptx::mma_m16n8k16(sums.value[block][i + 1], w, x[2], x[3]);
    }
}

// Part `part` of a step (all of it, but for groups of 32 columns) times x; its columns are the first of
// `columns`.
template <class Config>
LLAMA4RT_DEVICE void multiply_part(MediumSums<Config>& sums, MediumSums<Config>& group_sums,
                                   const MediumBlock<Config>& b,
                                   const typename Config::Columns (&columns)[Config::kBlocksOfWarp], int i,
                                   int part) {
  using Weights = typename Config::Weights;
  const int step = b.first_step + i, row = lane_index() / 4;
  const int group = step * kStepColumns / Weights::kGroup + part;
  const uint32_t stage = ptx::shared_address(b.ring) + uint32_t(i % Config::kStages * Config::kStageBytes);
  typename Weights::Bias bias[Config::kBlocksOfWarp];
  float scale[Config::kBlocksOfWarp][2] = {};
  for (int j = 0; j < Config::kBlocksOfWarp && Weights::kScaled; ++j) {
    int zero[2] = {8, 8};
    for (int h = 0; h < 2; ++h) {
      if (!b.has_rows(b.row_block + j)) continue;
      const int at = b.scales.index(b.row_block + j, group, row + 8 * h);
      scale[j][h] = b.scales.scale(at);
      zero[h] = b.scales.zero(at);
    }
    bias[j] = Weights::bias(zero[0], zero[1]);
  }
  LLAMA4RT_UNROLL
  for (int s = 0; s < 4 / Config::kParts; ++s) {
    uint32_t w[Config::kBlocksOfWarp][4];
    for (int j = 0; j < Config::kBlocksOfWarp; ++j) columns[j].fragment(w[j], s, bias[j]);
    multiply_k16<Config>(group_sums, w, stage, b.tile.num_rows, part * (4 / Config::kParts) + s);
  }
  const bool group_ends = (step + 1) % Config::kStepsOfGroup == 0 || i + 1 == b.num_steps;
  if (Weights::kScaled && group_ends)
    group_sums.each([&](float& v, int j, int t, int r) {
      sums.value[j][t][r] = ptx::fma(v, scale[j][r / 2], sums.value[j][t][r]);
      v = 0.0f;
    });
}

// The same of general weights, all of step i of K.
template <class Config>
LLAMA4RT_DEVICE void multiply_general(MediumSums<Config>& sums, MediumSums<Config>& group_sums,
                                      const MediumBlock<Config>& b,
                                      typename Config::Columns (&columns)[Config::kBlocksOfWarp], int i) {
  const uint32_t stage = ptx::shared_address(b.ring) + uint32_t(i % Config::kStages * Config::kStageBytes);
  multiply_general_step<typename Config::Weights>(
      b.a, GeneralTable(b.a, b.tile.expert), general_step(b.a, b.first_step + i), b.row_block, columns,
      [&](const uint32_t (&w)[Config::kBlocksOfWarp][4], int k16) {
        multiply_k16<Config>(group_sums, w, stage, b.tile.num_rows, k16);
      },
      [&](const auto& scale) {
        group_sums.each([&](float& v, int j, int t, int r) { scale(v, sums.value[j][t][r], j, r); });
      });
}

// A box of further columns, step i.
template <class Config>
LLAMA4RT_DEVICE void add_offsets(MediumSums<Config>& sums, const MediumBlock<Config>& b,
                                 const GeneralStep& step, int i) {
  const uint32_t stage = ptx::shared_address(b.ring) + uint32_t(i % Config::kStages * Config::kStageBytes);
  const GeneralTable table(b.a, b.tile.expert);
  const int row = lane_index() / 4, rows[2] = {row, row + 8};
  LLAMA4RT_UNROLL
  for (int j = 0; j < Config::kBlocksOfWarp; ++j) {
    const int blocks[2] = {b.row_block + j, b.row_block + j};
    const bool here[2] = {b.has_rows(b.row_block + j), b.has_rows(b.row_block + j)};
    each_offset_product(table, step, blocks, rows, here, [&](const uint32_t (&w)[4], int k16) {
      multiply_row_block<Config>(sums, w, j, stage, b.tile.num_rows, k16);
    });
  }
}

// One step times x.
template <class Config>
LLAMA4RT_DEVICE void multiply_step(MediumSums<Config>& sums, MediumSums<Config>& group_sums,
                                   const MediumBlock<Config>& b, int i) {
  const uint32_t weights =
      ptx::shared_address(b.ring) + uint32_t(i % Config::kStages * Config::kStageBytes + Config::kXBytes);
  typename Config::Columns columns[Config::kBlocksOfWarp];
  for (int j = 0; j < Config::kBlocksOfWarp; ++j) {
    const int block = b.row_block - b.first_row_block + j;
    if (b.has_rows(b.row_block + j))
      columns[j].load(weights + uint32_t(block * Config::Columns::kBytes));
    else
      columns[j].clear();
  }
  if constexpr (Config::Weights::kGeneral) {
    multiply_general(sums, group_sums, b, columns, i);
  } else if constexpr (Config::kParts == 1) {
    multiply_part(sums, group_sums, b, columns, i, 0);
  } else {
    LLAMA4RT_ROLL
    for (int part = 0; part < Config::kParts; ++part) {
      multiply_part(sums, group_sums, b, columns, i, part);
      LLAMA4RT_UNROLL
      for (int j = 0; j < Config::kBlocksOfWarp; ++j) columns[j].skip_half();
    }
  }
}

// Writes the sums to the outputs.
template <class Config>
LLAMA4RT_DEVICE void finish(const MediumBlock<Config>& b, const MediumSums<Config>& sums) {
  const RowsArgs& a = b.a;
  LLAMA4RT_UNROLL
  for (int i = 0; i < Config::kTokenTiles * 2; ++i) {
    const int tile = i / 2, odd = i % 2, token = tile * 8 + lane_index() % 4 * 2 + odd;
    if (token >= b.tile.num_rows) continue;
    const int to = out_row(a, b.tile, token);
    LLAMA4RT_UNROLL
    for (int h = 0; h < 2; ++h) {
      const int row = lane_index() / 4 + 8 * h, r = 2 * h + odd;
      if (a.finish == Finish::kSwiGlu) {  // the warp's first row block is gates, its second their ups
        put_swiglu(a, to, b.row_block / 2 * 16 + row, sums.value[0][tile][r], sums.value[1][tile][r]);
      } else {
        put_sum(a, to, b.row_block * 16 + row, sums.value[0][tile][r]);
        put_sum(a, to, b.row_block * 16 + 16 + row, sums.value[1][tile][r]);
      }
    }
  }
}

// When splits run beside each other: true in the block that came last, whose sums then are those of all
// splits.
template <class Config>
LLAMA4RT_DEVICE bool meet_splits(const MediumBlock<Config>& b, MediumSums<Config>& sums) {
  constexpr int64_t kPartial = Config::kSums * Config::kThreads;
  const int place = block_z() * grid_x() + block_x();
  float* const partials = b.a.partials + int64_t(place) * grid_y() * kPartial + thread_x();
  const auto at = [](int j, int i, int r) {
    return ((j * Config::kTokenTiles + i) * 4 + r) * Config::kThreads;
  };
  sums.each([&](float& v, int j, int i, int r) { partials[block_y() * kPartial + at(j, i, r)] = v; });
  if (!last_to_arrive(b.a.tickets + place, grid_y())) return false;
  sums.clear();
  for (int s = 0; s < grid_y(); ++s)
    sums.each([&](float& v, int j, int i, int r) { v += partials[s * kPartial + at(j, i, r)]; });
  return true;
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads) linear_medium_kernel(RowsArgs a) {
  wait_for_kernel_before();
  using Weights = typename Config::Weights;
  const RowTiles tiles(a.offsets, a.num_experts, a.num_rows, Config::kTokens);
  if (block_z() >= tiles.total()) return;  // the grid is for the worst routing
  const MediumBlock<Config> b(a, tiles.at(block_z()));

  for (int i = 0; i < Config::kStages - 1; ++i) b.load_step(i);
  MediumSums<Config> sums, group_sums;
  sums.clear();
  group_sums.clear();
  for (int i = 0; i < b.num_steps; ++i) {
    ptx::copy_wait<Config::kStages - 2>();
    ptx::sync_threads();                   // all copies are there, and no thread reads the stage before
    b.load_step(i + Config::kStages - 1);  // where the stage before was
    const bool of_k = !Weights::kGeneral || general_step(a, b.first_step + i).of_k();
    if (b.has_rows(b.row_block) && of_k) multiply_step(sums, group_sums, b, i);
    if constexpr (Weights::kGeneral)
      if (b.has_rows(b.row_block) && !of_k) add_offsets(sums, b, general_step(a, b.first_step + i), i);

    const int steps_of_split = Weights::kGeneral ? b.steps_of_split : kStepsOfSplit;
    if ((i + 1) % steps_of_split != 0 && i + 1 < b.num_steps) continue;  // the split goes on
    if constexpr (!Weights::kScaled) {
      group_sums.each([&](float& v, int j, int t, int r) {
        sums.value[j][t][r] += v;
        v = 0.0f;
      });
    } else if (grid_y() == 1 && b.num_steps > steps_of_split) {
      const bool first = i < steps_of_split, last = i + 1 == b.num_steps;
      sums.each([&](float& v, int j, int t, int r) {
        float* total = b.totals + ((j * Config::kTokenTiles + t) * 4 + r) * Config::kThreads + thread_x();
        const float sum = first ? v : *total + v;
        *total = sum;
        v = last ? sum : 0.0f;
      });
    }
  }
  if (grid_y() > 1 && !meet_splits(b, sums)) return;
  if (b.has_rows(b.row_block)) finish(b, sums);
}

}  // namespace llama4rt::cuda
