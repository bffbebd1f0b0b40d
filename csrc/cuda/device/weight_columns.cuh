// 64 columns of 16 rows of weights, and the scales that belong to them, in the registers of a warp: for the
// linears with many rows of x, which all step through K by 64.
#pragma once

#include "cuda/device/weight_tiles.cuh"
#include "cuda/ptx/memory.cuh"
#include "cuda/simt.h"

namespace llama4rt::cuda {

inline constexpr int kStepColumns = 64;
inline constexpr int kStepsOfSplit = kSplitColumns / kStepColumns;

// One row block's tiles of 64 columns lie one after the other.
template <class Weights>
struct WeightColumns {
  static constexpr int kTiles = kStepColumns / Weights::kTileColumns;
  static constexpr int kBytes = kTiles * kTileBytes;

  U32x4 words[kTiles];  // this lane's

  // address: of the first of the tiles in shared memory; tiles: how many exist, the others are read as 0.
  LLAMA4RT_DEVICE void load(uint32_t address, int tiles = kTiles) {
    for (int i = 0; i < kTiles; ++i)
      words[i] = i < tiles ? ptx::load_shared_v4(address + uint32_t(i * kTileBytes + lane_index() * 16))
                           : U32x4{0, 0, 0, 0};
  }
  LLAMA4RT_DEVICE void clear() {
    for (int i = 0; i < kTiles; ++i) words[i] = {0, 0, 0, 0};
  }
  // The second 32 columns take the place of the first.
  LLAMA4RT_DEVICE void skip_half() {
    if constexpr (kTiles == 1) {
      words[0].x = words[0].z;
      words[0].y = words[0].w;
    } else {
      for (int i = 0; i < kTiles / 2; ++i) words[i] = words[i + kTiles / 2];
    }
  }
  // The next 16 columns take the place of the first.
  LLAMA4RT_DEVICE void skip_step() {
    constexpr int kWordsOfStep = 4 / Weights::kSteps;
    for (int i = 0; i < kTiles; ++i) {
      const U32x4 now = words[i], next = i + 1 < kTiles ? words[i + 1] : U32x4{0, 0, 0, 0};
      if constexpr (kWordsOfStep == 1)
        words[i] = {now.y, now.z, now.w, next.x};
      else if constexpr (kWordsOfStep == 2)
        words[i] = {now.z, now.w, next.x, next.y};
      else
        words[i] = next;
    }
  }
  // The left operand of 16 columns, k16 = 0..3.
  LLAMA4RT_DEVICE void fragment(uint32_t (&a)[4], int k16, const typename Weights::Bias& bias) const {
    Weights::fragment(a, words[k16 / Weights::kSteps], k16 % Weights::kSteps, bias);
  }
};

// Scales of one matrix, [ceil(N / 16)][groups][16] bf16 or fp32, and its zero points, likewise or null.
struct ScaleTable {
  const void* scales;
  const uint8_t* zeros;
  int num_groups;
  bool fp32;

  // Past the last group x is 0, so any scale serves.
  LLAMA4RT_DEVICE int index(int row_block, int group, int row) const {
    return (row_block * num_groups + (group < num_groups ? group : num_groups - 1)) * 16 + row;
  }
  LLAMA4RT_DEVICE float scale(int i) const { return scale_at(scales, i, fp32); }
  LLAMA4RT_DEVICE int zero(int i) const { return zeros ? int(zeros[i]) : 8; }
};

}  // namespace llama4rt::cuda
