// Shared by the linears with many rows of x: where the weights of an expert are, and where sums go.
#pragma once

#include "cuda/device/finish.cuh"
#include "cuda/device/row_tiles.cuh"
#include "cuda/device/rows_args.cuh"
#include "cuda/device/weight_columns.cuh"
#include "cuda/simt.h"

namespace llama4rt::cuda {

LLAMA4RT_DEVICE int div_up(int x, int y) { return (x + y - 1) / y; }

template <class Weights>
LLAMA4RT_DEVICE ScaleTable scales_of(const RowsArgs& a, int expert) {
  const int64_t first = expert * a.matrix_scales;
  return {a.scales + first * (a.fp32_scales ? 4 : 2), a.zeros ? a.zeros + first : nullptr,
          div_up(a.k, Weights::kGroup), a.fp32_scales};
}

// The tiles of a row block from 64 columns `step` on.
template <class Weights>
LLAMA4RT_DEVICE const unsigned char* weights_of(const RowsArgs& a, int expert, int row_block, int step) {
  const int64_t tiles_of_row = div_up(a.k, Weights::kTileColumns);
  const int64_t tile = row_block * tiles_of_row + step * WeightColumns<Weights>::kTiles;
  return a.weights + expert * a.matrix_bytes + tile * kTileBytes;
}

// How many tiles of those 64 columns there are: the last step of K may lack some.
template <class Weights>
LLAMA4RT_DEVICE int tiles_of_step(const RowsArgs& a, int step) {
  const int left = div_up(a.k, Weights::kTileColumns) - step * WeightColumns<Weights>::kTiles;
  return left < WeightColumns<Weights>::kTiles ? left : WeightColumns<Weights>::kTiles;
}

// Row `token` of a tile of x in `out`.
LLAMA4RT_DEVICE int out_row(const RowsArgs& a, const RowTile& tile, int token) {
  const int row = tile.first_row + token;
  return a.picks ? a.picks[row] : row;
}

// Sum of row n of w: stored or added.
LLAMA4RT_DEVICE void put_sum(const RowsArgs& a, int row, int n, float sum) {
  if (n >= a.n) return;
  float* out = a.out + row * a.out_stride + n;
  *out = a.finish == Finish::kAdd ? *out + sum : sum;
}

// Sums of gate row and up row f.
LLAMA4RT_DEVICE void put_swiglu(const RowsArgs& a, int row, int f, float gate, float up) {
  if (f >= a.num_f) return;
  a.out[row * a.out_stride + f] = swiglu(gate, up, a.scores ? a.scores[row] : 1.0f);
}

}  // namespace llama4rt::cuda
