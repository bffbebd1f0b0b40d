// Linear for few tokens: a stream of weights, of one matrix, of routed experts, or of both.
//
//   y[t, n] = sum_k bf16(x[t, k]) * w[n, k]
//
// A block takes 64 rows of every matrix and one split of K (1024 columns), or all splits, one after the
// other. It walks over *work items*: up to 8 or 16 tokens that go through the same matrix. So weights are read from
// memory once for all tokens of a work item, and the weights of an expert without tokens are never read.
//
//               k: one split of 1024 columns             shared memory of a block
//            +---------+---------+-- ... --+             +------------------------------------------+
//   warp 0   | 16 rows |         |         |             | ring of warp 0: 8 stages (int8: 4)       |
//            +---------+---------+-- ... --+             +------------------------------------------+
//   warp 1   | 16 rows |         |         |             | rings of warps 1, 2, 3                   |
//            +---------+---------+-- ... --+             +------------------------------------------+
//   warp 2   | 16 rows |         |         |             | x: [tokens][1024 + 8 of padding] bf16    |
//            +---------+---------+-- ... --+             +------------------------------------------+
//   warp 3   | 16 rows |         |         |             | where experts begin: [E + 1] int32       |
//            +---------+---------+-- ... --+             +------------------------------------------+
//              stage 0   stage 1                         sums and totals of 64 rows: in registers
//
//   a stage of one warp, by cp.async:
//            +--------------------------------------------------------------+--------------+--------------+
//            | tiles of weights (weights/layout.h)                           | scales       | zero points  |
//            | 128 columns: int4 1 KB, int8 2 KB; 32 columns of bf16: 1 KB  | 16 per group | 16 per group |
//            +--------------------------------------------------------------+--------------+--------------+
//
// Weights are the left operand: rows n are the 16 of m16n8k16, tokens its 8 columns. One token thus wastes
// 7/8 of the tensor cores' work, which costs no time, as the weights cannot be read as fast as they are
// multiplied. A warp's ring runs on from split to split and from item to item: it is always 7 (int8: 3) stages
// ahead.
//
// Sums of every work item go to global memory, [64-row block][split][tokens + picks][64]; the last block of 64 rows
// to arrive adds the splits and finishes. The order of additions is that of device/weight_tiles.cuh. What general
// weights do otherwise (scales of any type, offsets) is in linear_decode_general.cuh.
#pragma once

#include "cuda/device/finish.cuh"
#include "cuda/device/overlap.cuh"
#include "cuda/device/weight_tiles.cuh"
#include "cuda/kernels/decode_args.h"
#include "cuda/kernels/linear_decode_general.cuh"
#include "cuda/ptx/bits.cuh"
#include "cuda/ptx/cp_async.cuh"
#include "cuda/ptx/math.cuh"
#include "cuda/ptx/matrix.cuh"
#include "cuda/ptx/memory.cuh"
#include "cuda/ptx/sync.cuh"
#include "cuda/ptx/warp.cuh"
#include "cuda/simt.h"

namespace llama4rt::cuda {

template <class WeightsType, int kTokenTileCount>
struct DecodeConfig {
  using Weights = WeightsType;
  static constexpr int kTokenTiles = kTokenTileCount;  // of 8 tokens
  static constexpr int kTokens = 8 * kTokenTiles;      // of a work item
  static constexpr int kWarps = 4;
  static constexpr int kThreads = kWarps * kWarpSize;
  static constexpr int kRows = 16 * kWarps;
  // A stage is whole groups: 128 columns of int4 (1 KB) or int8 (2 KB); 32 of bf16 (1 KB).
  static constexpr int kStageColumns = Weights::kScaled ? 128 : 2 * Weights::kTileColumns;
  static constexpr int kStageTiles = kStageColumns / Weights::kTileColumns;
  static constexpr int kStageGroups = Weights::kScaled ? kStageColumns / Weights::kGroup : 0;
  static constexpr int kStages = kStageTiles == 4 ? 4 : 8;  // 8 KB of tiles per warp
  // 8 values of padding: rows of x start 4 banks apart, and ldmatrix meets no conflict.
  static constexpr int kFurtherColumns = !Weights::kGeneral      ? 0
                                         : Weights::kGroup == 16 ? 2 * kBoxColumns
                                                                 : kBoxColumns;
  static constexpr int kXStride = kSplitColumns + kFurtherColumns + 8;

  // Shared memory, in bytes. Scales have room for fp32.
  static constexpr int kScaleOffset = kStageTiles * kTileBytes;
  // Of general weights also for 256 bytes of factors, with offsets.
  static constexpr int kScaleBytes = Weights::kGeneral && kStageGroups < 4 ? 256 : kStageGroups * 16 * 4;
  static constexpr int kZeroOffset = kScaleOffset + kScaleBytes;
  static constexpr int kFactorOffset = kZeroOffset + (Weights::kZeros ? kStageGroups * 16 : 0);
  static constexpr int kStageBytes = kFactorOffset + (Weights::kGeneral ? 64 : 0);
  static constexpr int kRingBytes = kStages * kStageBytes;  // of a warp
  static constexpr int kXRowBytes = kXStride * 2;
  static constexpr int shared_bytes(int rows_of_x, int experts) {
    return kWarps * kRingBytes + rows_of_x * kXRowBytes + (experts + 1) * 4;
  }
};

LLAMA4RT_DEVICE int min_of(int x, int y) { return x < y ? x : y; }

// The work items of a launch in order, and in each the splits of the block. All lanes of a warp walk together.
template <class Config>
struct Walk {
  int expert = -1;  // -1: the dense matrix
  int first = 0;    // token, or place in sorted_picks
  int end = 0;      // of the tokens, or of the expert's places
  int split = 0;
  bool done = false;

  LLAMA4RT_DEVICE int count() const { return min_of(end - first, Config::kTokens); }
  LLAMA4RT_DEVICE bool dense() const { return expert < 0; }

  LLAMA4RT_DEVICE void start(const DecodeArgs& a, const int* offsets, int first_split) {
    split = first_split;
    end = a.tokens;
    if (end == 0) next_expert(a, offsets);
  }
  LLAMA4RT_DEVICE void next(const DecodeArgs& a, const int* offsets, int first_split, int end_split) {
    if (++split < end_split) return;
    split = first_split;
    first += Config::kTokens;
    if (first >= end) next_expert(a, offsets);
  }
  // The next expert with tokens, 32 of them looked at together.
  LLAMA4RT_DEVICE void next_expert(const DecodeArgs& a, const int* offsets) {
    for (int e = expert + 1; e < a.experts; e += kWarpSize) {
      const int mine = e + lane_index();
      const uint32_t busy = ptx::ballot(mine < a.experts && offsets[mine] < offsets[mine + 1]);
      if (busy == 0) continue;
      expert = e + ptx::popcount((busy & (0u - busy)) - 1);  // the lowest of them
      first = offsets[expert];
      end = offsets[expert + 1];
      return;
    }
    done = true;
  }
};

// Position and pointers of one block.
template <class Config>
struct DecodeBlock {
  const DecodeArgs& a;
  int lane, warp;
  int row_block;  // of 16 rows, this warp's
  bool has_rows;  // the last block of rows may leave warps without any
  int first_split, end_split;
  unsigned char* ring;  // this warp's [kStages][kStageBytes]; places in it are in bytes
  unsigned char* x;     // [tokens of a work item][kXStride] bf16
  int* offsets;         // [E + 1]

  // `rows_of_x` is what the launcher made room for.
  LLAMA4RT_DEVICE DecodeBlock(const DecodeArgs& args, int rows_of_x) : a(args) {
    lane = int(unsigned(thread_x()) % kWarpSize);
    warp = int(unsigned(thread_x()) / kWarpSize);
    row_block = block_x() * Config::kWarps + warp;
    has_rows = row_block * 16 < a.n;
    const int splits = (a.k + kSplitColumns - 1) / kSplitColumns;
    first_split = grid_y() == 1 ? 0 : block_y();
    end_split = grid_y() == 1 ? splits : first_split + 1;
    unsigned char* p = dynamic_shared();
    ring = p + warp * Config::kRingBytes;
    x = p + Config::kWarps * Config::kRingBytes;
    offsets = reinterpret_cast<int*>(x + rows_of_x * Config::kXRowBytes);
  }

  LLAMA4RT_DEVICE void load_offsets() const {
    if (a.experts == 0) return;
    for (int i = thread_x(); i <= a.experts; i += Config::kThreads) offsets[i] = a.offsets[i];
    ptx::sync_threads();
  }
  LLAMA4RT_DEVICE void start(Walk<Config>& walk) const { walk.start(a, offsets, first_split); }
  LLAMA4RT_DEVICE void next(Walk<Config>& walk) const { walk.next(a, offsets, first_split, end_split); }
  LLAMA4RT_DEVICE int columns(int split) const { return min_of(a.k - split * kSplitColumns, kSplitColumns); }

  // Row `token` of a work item.
  LLAMA4RT_DEVICE const float* x_row(const Walk<Config>& item, int token) const {
    if (item.dense()) return a.dense_x + (item.first + token) * a.dense_x_stride;
    return a.routed_x + a.sorted_picks[item.first + token] / a.picks_per_row * a.routed_x_stride;
  }

  // x of a work item and split as bf16, 8 columns at a time; zeros past K, to the end of the last stage.
  LLAMA4RT_DEVICE void load_x(const Walk<Config>& item) const {
    constexpr int kChunks = kSplitColumns / 8;
    const int in_split = columns(item.split);
    for (int i = thread_x(); i < item.count() * kChunks; i += Config::kThreads) {
      const int token = i / kChunks, column = i % kChunks * 8;
      const bool sums = Config::Weights::kGeneral && a.general.boxes > 0;  // all lanes take part
      if (!sums &&
          column >= (in_split + Config::kStageColumns - 1) / Config::kStageColumns * Config::kStageColumns)
        continue;
      const float* from = x_row(item, token) + int64_t(item.split) * kSplitColumns + column;
      float v[8];
      if (column + 8 <= in_split && reinterpret_cast<uintptr_t>(from) % 16 == 0) {
        for (int j = 0; j < 8; j += 4) {
          const U32x4 four = *reinterpret_cast<const U32x4*>(from + j);
          v[j] = ptx::float_from_bits(four.x);
          v[j + 1] = ptx::float_from_bits(four.y);
          v[j + 2] = ptx::float_from_bits(four.z);
          v[j + 3] = ptx::float_from_bits(four.w);
        }
      } else {
        for (int j = 0; j < 8; ++j) v[j] = column + j < in_split ? from[j] : 0.0f;
      }
      const uint32_t rounded[4] = {ptx::pack_bf16(v[0], v[1]), ptx::pack_bf16(v[2], v[3]),
                                   ptx::pack_bf16(v[4], v[5]), ptx::pack_bf16(v[6], v[7])};
      unsigned char* const row = x + token * Config::kXRowBytes;
      *reinterpret_cast<U32x4*>(row + column * 2) = {rounded[0], rounded[1], rounded[2], rounded[3]};
      if constexpr (Config::Weights::kGeneral) {
        if (!sums) continue;
        const int shift = a.general.group_shift;
        const float sum = group_sum(rounded, shift);
        if ((column & ((1 << shift) - 1)) == 0)
          put_group_sum(reinterpret_cast<uint16_t*>(row) + kSplitColumns, column >> shift, shift,
                        a.general.boxes, sum);
      }
    }
  }
};

// Fills this warp's ring, ahead of the products and in their order.
template <class Config>
struct Loader {
  using Weights = typename Config::Weights;
  Walk<Config> walk;
  uint32_t ring;               // shared address of this lane's bytes in a tile
  const unsigned char* tiles;  // of the next stage, this lane's bytes
  int tiles_left = 0;          // of the split
  // Lanes 0 to 15 also copy scales, 16 bytes each; lanes from 16 on zero points.
  const unsigned char* side;   // of the next stage
  int side_place = -1;         // in a stage, after this lane's bytes of its first tile; -1: nothing
  int side_group = 0;          // of the stage's groups
  int groups_left = 0;         // of the split
  GeneralSides<Config> sides;  // of general weights, in place of the four above
  int loaded = 0;              // stages, of those loaded before the first product

  LLAMA4RT_DEVICE explicit Loader(const DecodeBlock<Config>& b) {
    ring = ptx::shared_address(b.ring) + uint32_t(b.lane * 16);
    if constexpr (Weights::kGeneral) return;
    const int lanes_of_group = b.a.fp32_scales ? 4 : 2;
    if (b.lane < Config::kStageGroups * lanes_of_group) {
      side_place = Config::kScaleOffset;
      side_group = b.lane / 2 / (lanes_of_group / 2);
    } else if (Weights::kZeros && b.lane >= 16 && b.lane < 16 + Config::kStageGroups) {
      side_place = Config::kZeroOffset - 16 * 16;
      side_group = b.lane - 16;
    }
  }

  // Stages that do not depend on the kernel before: weights of the dense matrix, in the first split.
  LLAMA4RT_DEVICE void load_early(const DecodeBlock<Config>& b) {
    if (b.a.tokens == 0) return;
    begin(b);
    while (loaded < Config::kStages - 1 && tiles_left > 0) load_stage(b, loaded++ * Config::kStageBytes);
  }
  // The rest of the ring. `offsets` are there.
  LLAMA4RT_DEVICE void fill_ring(const DecodeBlock<Config>& b) {
    if (b.a.tokens == 0) begin(b);
    while (loaded < Config::kStages - 1) load_stage(b, loaded++ * Config::kStageBytes);
  }

  // A warp without rows has nothing to load.
  LLAMA4RT_DEVICE void begin(const DecodeBlock<Config>& b) {
    b.start(walk);
    if (!b.has_rows) walk.done = true;
    if (!walk.done) point(b);
  }

  // To the first stage of the walk's split.
  LLAMA4RT_DEVICE void point(const DecodeBlock<Config>& b) {
    constexpr int kTilesOfSplit = kSplitColumns / Weights::kTileColumns;
    constexpr int kGroupsOfSplit = kSplitColumns / Weights::kGroup;
    const DecodeMatrices& m = walk.dense() ? b.a.dense : b.a.routed;
    const int tiles_of_row = (b.a.k + Weights::kTileColumns - 1) / Weights::kTileColumns;
    const int groups_of_row = (b.a.k + Weights::kGroup - 1) / Weights::kGroup;
    const int64_t rows = int64_t(walk.dense() ? 0 : walk.expert) * ((b.a.n + 15) / 16) + b.row_block;
    tiles_left = min_of(tiles_of_row - walk.split * kTilesOfSplit, kTilesOfSplit);
    tiles = m.tiles + (rows * tiles_of_row + walk.split * kTilesOfSplit) * kTileBytes + b.lane * 16;
    if constexpr (Weights::kGeneral) return sides.point(b.a, m, rows, walk.split, b.lane);
    groups_left = min_of(groups_of_row - walk.split * kGroupsOfSplit, kGroupsOfSplit);
    const int64_t group = (rows * groups_of_row + walk.split * kGroupsOfSplit) * 16;
    if constexpr (Weights::kZeros)
      if (b.lane >= 16) {
        side = m.zeros + group + side_group * 16;
        return;
      }
    if constexpr (Weights::kScaled) side = m.scales + group * (b.a.fp32_scales ? 4 : 2) + b.lane * 16;
  }

  // The next stage to its place, zeros where K ends inside it. When all are loaded only the group is counted.
  LLAMA4RT_DEVICE void load_stage(const DecodeBlock<Config>& b, int place) {
    if constexpr (Weights::kGeneral)
      if (!walk.done && tiles_left <= 0 && sides.offset_chunks_left > 0) {
        sides.load_offsets(b.a.general, ring + uint32_t(place), b.lane);
        return ptx::copy_commit();
      }
    if (!walk.done && tiles_left <= 0) {
      b.next(walk);
      if (!walk.done) point(b);
    }
    if (!walk.done) {
      const uint32_t to = ring + uint32_t(place);
      for (int i = 0; i < Config::kStageTiles; ++i)
        ptx::copy_async_16(to + uint32_t(i * kTileBytes), tiles + i * kTileBytes, i < tiles_left ? 16 : 0);
      tiles += Config::kStageTiles * kTileBytes;
      tiles_left -= Config::kStageTiles;
      if constexpr (Weights::kGeneral) {
        sides.load(b.a.general, to, b.lane);
      } else if constexpr (Weights::kScaled) {
        if (side_place >= 0)
          ptx::copy_async_16(to + uint32_t(side_place), side, side_group < groups_left ? 16 : 0);
        const int size = Weights::kZeros && b.lane >= 16 ? 1 : b.a.fp32_scales ? 4 : 2;
        side += Config::kStageGroups * 16 * size;
        groups_left -= Config::kStageGroups;
      }
    }
    ptx::copy_commit();
  }
};

// Sums of this warp's 16 rows and all tokens: [token tile][register of m16n8].
template <class Config>
struct DecodeSums {
  float value[Config::kTokenTiles][4];
  LLAMA4RT_DEVICE void clear() {
    for (int i = 0; i < Config::kTokenTiles; ++i)
      for (int r = 0; r < 4; ++r) value[i][r] = 0.0f;
  }
};

// One stage times x. `tiles`: shared address of this lane's bytes in its first tile. `x_address`: for each
// token tile, of this lane's row of ldmatrix at the stage's first column.
template <class Config>
LLAMA4RT_DEVICE void multiply_stage(DecodeSums<Config>& sums, const DecodeBlock<Config>& b,
                                    const unsigned char* stage, uint32_t tiles,
                                    const uint32_t (&x_address)[Config::kTokenTiles]) {
  using Weights = typename Config::Weights;
  const int row = b.lane / 4;
  DecodeSums<Config> group_sums;
  group_sums.clear();
  U32x4 words;
  typename Weights::Bias bias;
  uint32_t x[Config::kTokenTiles][4];  // two steps of 16 columns, two registers each
  for (int step = 0; step < Config::kStageColumns / 16; ++step) {
    if (step % 2 == 0)
      for (int i = 0; i < Config::kTokenTiles; ++i)
        ptx::ldmatrix_x4(x[i], x_address[i] + uint32_t(step * 32));
    if (step % Weights::kSteps == 0)
      words = ptx::load_shared_v4(tiles + uint32_t(step / Weights::kSteps * kTileBytes));
    const int group = step * 16 / Weights::kGroup;
    if (step * 16 % Weights::kGroup == 0) {
      int zero0 = 8, zero1 = 8;
      if constexpr (Weights::kZeros) {
        zero0 = stage[Config::kZeroOffset + group * 16 + row];
        zero1 = stage[Config::kZeroOffset + group * 16 + row + 8];
      }
      bias = Weights::bias(zero0, zero1);
    }
    uint32_t w[4];
    Weights::fragment(w, words, step % Weights::kSteps, bias);
    for (int i = 0; i < Config::kTokenTiles; ++i) {
      auto& into = Weights::kScaled ? group_sums.value[i] : sums.value[i];
      ptx::mma_m16n8k16(into, w, x[i][step % 2 * 2], x[i][step % 2 * 2 + 1]);
    }
    if constexpr (Weights::kScaled) {
      if ((step + 1) * 16 % Weights::kGroup != 0) continue;
      const float scale0 = scale_at(stage + Config::kScaleOffset, group * 16 + row, b.a.fp32_scales);
      const float scale1 = scale_at(stage + Config::kScaleOffset, group * 16 + row + 8, b.a.fp32_scales);
      for (int i = 0; i < Config::kTokenTiles; ++i)
        for (int r = 0; r < 4; ++r)
          sums.value[i][r] = ptx::fma(group_sums.value[i][r], r < 2 ? scale0 : scale1, sums.value[i][r]);
      group_sums.clear();
    }
  }
}

// The sums of a work item that is done: [tokens + picks][64] of this block.
template <class Config>
LLAMA4RT_DEVICE void store_partials(float* partials, const DecodeBlock<Config>& b, const Walk<Config>& item,
                                    const DecodeSums<Config>& sums) {
  const int row = b.warp * 16 + b.lane / 4;
  for (int i = 0; i < Config::kTokenTiles; ++i)
    for (int odd = 0; odd < 2; ++odd) {
      const int token = i * 8 + b.lane % 4 * 2 + odd;
      if (token >= item.count()) continue;
      const int place = item.dense() ? item.first + token : b.a.tokens + b.a.sorted_picks[item.first + token];
      float* to = partials + int64_t(place) * Config::kRows + row;
      to[0] = sums.value[i][odd];
      to[8] = sums.value[i][2 + odd];
    }
}

// Writes the totals to the outputs.  total(place, row of the block) -> float; places are tokens, then picks.
template <class Config, class Total>
LLAMA4RT_DEVICE void finish(const DecodeBlock<Config>& b, const Total& total) {
  const DecodeArgs& a = b.a;
  if (a.finish == Finish::kSwiGlu) {
    // Of every 32 rows the first 16 are gates, the others the same outputs' ups.
    for (int i = thread_x(); i < (a.tokens + a.picks) * (Config::kRows / 2); i += Config::kThreads) {
      const int place = i / (Config::kRows / 2), j = i % (Config::kRows / 2);
      const int gate_row = j / 16 * 32 + j % 16;
      const int f = block_x() * (Config::kRows / 2) + j;
      if (f >= a.num_f) continue;
      const bool routed = place >= a.tokens;
      const int pick = place - a.tokens;
      float* out = routed ? a.routed_out + pick * a.routed_out_stride : a.out + place * a.out_stride;
      out[f] = swiglu(total(place, gate_row), total(place, gate_row + 16), routed ? a.scores[pick] : 1.0f);
    }
  } else {
    const int tokens = a.picks > 0 ? a.picks / a.top_k : a.tokens;
    for (int i = thread_x(); i < tokens * Config::kRows; i += Config::kThreads) {
      const int token = i / Config::kRows, row = i % Config::kRows;
      const int n = block_x() * Config::kRows + row;
      if (n >= a.n) continue;
      float* out = a.out + token * a.out_stride + n;
      float value = a.finish == Finish::kAdd ? *out : 0.0f;
      if (a.tokens > 0) value = a.finish == Finish::kAdd ? value + total(token, row) : total(token, row);
      if (a.picks > 0) {
        float experts = total(a.tokens + token * a.top_k, row);
        for (int s = 1; s < a.top_k; ++s) experts += total(a.tokens + token * a.top_k + s, row);
        value += experts;
      }
      *out = value;
    }
  }
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads) linear_decode_kernel(DecodeArgs a, int rows_of_x) {
  const DecodeBlock<Config> b(a, rows_of_x);
  Loader<Config> loader(b);
  loader.load_early(b);
  wait_for_kernel_before();
  b.load_offsets();
  loader.fill_ring(b);
  const int64_t partial = int64_t(a.tokens + a.picks) * Config::kRows;
  float* const partials = a.partials + int64_t(block_x()) * grid_y() * partial;

  Walk<Config> item;
  b.start(item);
  DecodeSums<Config> total, sums;
  total.clear();
  int stage = 0, free = (Config::kStages - 1) * Config::kStageBytes;  // places in the ring
  const auto wait_for_stage = [&] {
    ptx::copy_wait<Config::kStages - 2>();
    if constexpr (Config::Weights::kScaled) ptx::sync_warp(0xffffffffu);  // lanes share scales
    loader.load_stage(b, free);
  };
  const auto next_stage = [&] {
    free = stage;
    stage += Config::kStageBytes;
    if (stage == Config::kRingBytes) stage = 0;
  };
  while (!item.done) {
    ptx::sync_threads();  // x of the split before is read
    b.load_x(item);
    ptx::sync_threads();
    uint32_t x_address[Config::kTokenTiles];  // of row lane % 8, columns 8 * (lane / 8) of 32
    for (int i = 0; i < Config::kTokenTiles; ++i) {
      // Past the work item's tokens any row will do: their sums are not used.
      const int token = min_of(i * 8 + b.lane % 8, item.count() - 1);
      x_address[i] = ptx::shared_address(b.x + token * Config::kXRowBytes + b.lane / 8 * 16);
    }
    sums.clear();
    for (int column = 0; column < b.columns(item.split); column += Config::kStageColumns) {
      wait_for_stage();
      if (b.has_rows) {
        if constexpr (Config::Weights::kGeneral)
          multiply_general_stage<Config>(sums, b.a.general, b.lane, b.ring + stage,
                                         loader.ring + uint32_t(stage), x_address);
        else
          multiply_stage(sums, b, b.ring + stage, loader.ring + uint32_t(stage), x_address);
      }
      for (int i = 0; i < Config::kTokenTiles; ++i) x_address[i] += Config::kStageColumns * 2;
      next_stage();
    }
    if constexpr (Config::Weights::kGeneral) {
      const int first =
          b.columns(item.split) + Config::kStageColumns - 1;  // columns that x_address has passed
      for (int c = 0; c < offset_stages(a.general, b.columns(item.split)); ++c) {
        wait_for_stage();
        if (b.has_rows)
          add_offsets<Config>(sums, a.general, b.lane, b.ring + stage, x_address, c,
                              first / Config::kStageColumns * Config::kStageColumns);
        next_stage();
      }
    }
    for (int i = 0; i < Config::kTokenTiles; ++i)
      for (int r = 0; r < 4; ++r) total.value[i][r] += sums.value[i][r];
    if (item.split + 1 == b.end_split) {
      if (b.has_rows) store_partials(partials + block_y() * partial, b, item, total);
      total.clear();
    }
    b.next(item);
  }

  if (grid_y() > 1) {
    if (!last_to_arrive(a.tickets + block_x(), grid_y(), b.offsets)) return;
  } else {
    ptx::sync_threads();
  }
  finish(b, [&](int place, int row) {
    float sum = 0.0f;
    for (int s = 0; s < grid_y(); ++s) sum += partials[s * partial + int64_t(place) * Config::kRows + row];
    return sum;
  });
}

}  // namespace llama4rt::cuda
