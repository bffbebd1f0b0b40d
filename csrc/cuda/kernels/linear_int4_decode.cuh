// int4 x bf16 matmul for few tokens: a stream of weights.
//
//   out[t, n] = sum_k bf16(x[t, k]) * (q[n, k] - z) * scale[n, k / group]
//
// A block takes 64 rows of w (4 warps, one row block of 16 each), 1024 columns (a *split*) and up to 16
// tokens:
//
//            k: one split                        Weights are the left operand: rows n are the 16 of m16n8k16,
//          +---------------+                     tokens its 8 columns, so one token wastes 7/8 of tensor work
//   warp 0 | tile tile ... |   x: tokens x split that nobody waits for, and no weight is ever read twice.
//   warp 1 |               |   in shared memory,
//   warp 2 |               |   as bf16           A warp streams 512-byte tiles (format/layout.h, kCudaTile)
//   warp 3 |               |                     through kStages stages of cp.async; each lane copies and
//   reads
//          +---------------+                     only its own 16 bytes of a tile.
//
// Order of additions, which no batch size changes: the 16 products of one mma; mma after mma within a weight
// group; groups ascending (scale applied in fp32); splits ascending. Splits meet in global memory; the last
// block to arrive adds them.
#pragma once

#include "cuda/kernels/linear.h"
#include "cuda/ptx/cp_async.cuh"
#include "cuda/ptx/math.cuh"
#include "cuda/ptx/matrix.cuh"
#include "cuda/ptx/memory.cuh"
#include "cuda/ptx/sync.cuh"
#include "cuda/simt.h"

namespace llama4rt::cuda {

struct LinearInt4Args {
  float* out;                    // [T, N], or [T, F] with kSwiGlu; out_stride between rows
  const float* x;                // [T, K], x_stride
  const unsigned char* weights;  // kCudaTile: [ceil(N/16)][ceil(K/64)][512] bytes
  const void* scales;            // [ceil(N/16)][groups][16] of Scale
  const uint8_t* zeros;          // the same of bytes, or null: 8
  float* partials;               // [token blocks][splits][16 tokens][row groups * 64]
  uint32_t* tickets;             // [token blocks][row groups], zero between runs
  int64_t out_stride;
  int64_t x_stride;
  int tokens;  // T
  int n;       // rows of w
  int k;
  int num_f;  // F with kSwiGlu
  Finish finish;
};

template <int kGroupSize, class ScaleType, bool kWithZeros, int kTokenTileCount>
struct LinearInt4Config {
  using Scale = ScaleType;
  static constexpr int kGroup = kGroupSize;            // columns that share a scale
  static constexpr bool kZeros = kWithZeros;           // zero points, or 8
  static constexpr int kTokenTiles = kTokenTileCount;  // of 8 tokens
  static constexpr int kTokens = 8 * kTokenTiles;
  static constexpr int kWarps = 4;
  static constexpr int kThreads = kWarps * kWarpSize;
  static constexpr int kRows = 16 * kWarps;
  static constexpr int kTileColumns = 64;
  static constexpr int kTileBytes = 512;
  static constexpr int kSplitTiles = 16;
  static constexpr int kSplitColumns = kSplitTiles * kTileColumns;
  static constexpr int kStages = 8;  // 4 KB in flight per warp
  static constexpr int kGroupsPerSplit = kSplitColumns / kGroup;
  // 8 values of padding: rows of x start 4 banks apart, and ldmatrix meets no conflict.
  static constexpr int kXStride = kSplitColumns + 8;

  // Shared memory, in bytes.
  static constexpr int kXBytes = kTokens * kXStride * 2;
  static constexpr int kStageBytes = kWarps * kStages * kTileBytes;
  static constexpr int kScaleBytes = kWarps * kGroupsPerSplit * 16 * int(sizeof(Scale));
  static constexpr int kZeroBytes = kZeros ? kWarps * kGroupsPerSplit * 16 : 0;
  static constexpr int kSharedBytes = kXBytes + kStageBytes + kScaleBytes + kZeroBytes;
  // The sums of the block take the place of x when all products are done.
  static_assert(kTokens * kRows * 4 <= kXBytes);
};

// The type of scales in memory: bf16 bits or float.
struct ScaleBF16 {
  uint16_t bits;
};
LLAMA4RT_DEVICE float scale_value(ScaleBF16 s) { return ptx::float_from_bits(uint32_t(s.bits) << 16); }
LLAMA4RT_DEVICE float scale_value(float s) { return s; }

// What one block knows about its place in the matrix.
template <class Config>
struct DecodeBlock {
  const LinearInt4Args& a;
  int row_block;     // of 16 rows, this warp's
  bool has_rows;     // the last block of rows may leave warps without any
  int first_column;  // of the split
  int tiles;         // of the split, for this K
  int groups;        // of the split, for this K
  int first_token;
  int num_tokens;                // of the block's kTokens
  unsigned char* shared_x;       // [kTokens][kXStride] bf16
  unsigned char* shared_stages;  // this warp's [kStages][512]
  unsigned char* shared_scales;  // this warp's [kGroupsPerSplit][16]
  unsigned char* shared_zeros;   // this warp's [kGroupsPerSplit][16]

  LLAMA4RT_DEVICE explicit DecodeBlock(const LinearInt4Args& args) : a(args) {
    const int warp = warp_index();
    row_block = block_x() * Config::kWarps + warp;
    has_rows = row_block * 16 < a.n;
    first_column = block_y() * Config::kSplitColumns;
    const int columns = min_of(a.k - first_column, Config::kSplitColumns);
    tiles = (columns + Config::kTileColumns - 1) / Config::kTileColumns;
    groups = (columns + Config::kGroup - 1) / Config::kGroup;
    first_token = block_z() * Config::kTokens;
    num_tokens = min_of(a.tokens - first_token, Config::kTokens);
    unsigned char* p = dynamic_shared();
    shared_x = p;
    shared_stages = p + Config::kXBytes + warp * (Config::kStages * Config::kTileBytes);
    shared_scales = p + Config::kXBytes + Config::kStageBytes + warp * (Config::kScaleBytes / Config::kWarps);
    shared_zeros = p + Config::kXBytes + Config::kStageBytes + Config::kScaleBytes +
                   warp * (Config::kZeroBytes / Config::kWarps);
  }

  static LLAMA4RT_DEVICE int min_of(int x, int y) { return x < y ? x : y; }

  // Scales (and zero points) of this warp's rows and split: contiguous in memory.
  LLAMA4RT_DEVICE void load_scales() const {
    const int64_t groups_of_row = (a.k + Config::kGroup - 1) / Config::kGroup;
    const int64_t first = (row_block * groups_of_row + first_column / Config::kGroup) * 16;
    const auto copy = [&](unsigned char* dst, const unsigned char* src, int bytes) {
      const uint32_t to = ptx::shared_address(dst);
      for (int i = lane_index() * 16; i < bytes; i += kWarpSize * 16)
        ptx::copy_async_16(to + uint32_t(i), src + i, 16);
    };
    copy(shared_scales,
         static_cast<const unsigned char*>(a.scales) + first * int64_t(sizeof(typename Config::Scale)),
         groups * 16 * int(sizeof(typename Config::Scale)));
    if constexpr (Config::kZeros) copy(shared_zeros, a.zeros + first, groups * 16);
  }

  // Tile `tile` of the split into its stage; past the end only the group is counted.
  LLAMA4RT_DEVICE void load_tile(int tile) const {
    if (tile < tiles && has_rows) {
      const int64_t tiles_per_row = (a.k + Config::kTileColumns - 1) / Config::kTileColumns;
      const int64_t index = row_block * tiles_per_row + first_column / Config::kTileColumns + tile;
      const int lane_offset = lane_index() * 16;
      ptx::copy_async_16(
          ptx::shared_address(shared_stages + tile % Config::kStages * Config::kTileBytes + lane_offset),
          a.weights + index * Config::kTileBytes + lane_offset, 16);
    }
    ptx::copy_commit();
  }

  // x of the split as bf16; zeros for missing tokens and past K.
  LLAMA4RT_DEVICE void load_x() const {
    const int columns = tiles * Config::kTileColumns;
    auto* x = reinterpret_cast<uint32_t*>(shared_x);
    for (int i = thread_x(); i < Config::kTokens * (columns / 2); i += Config::kThreads) {
      const int token = i / (columns / 2), pair = i % (columns / 2);
      const int column = first_column + 2 * pair;
      const float* row = a.x + (first_token + token) * a.x_stride;
      const bool here = token < num_tokens;
      const float low = here && column < a.k ? row[column] : 0.0f;
      const float high = here && column + 1 < a.k ? row[column + 1] : 0.0f;
      x[token * (Config::kXStride / 2) + pair] = ptx::pack_bf16(low, high);
    }
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

// Sixteen columns: eight int4 in one word become the left operand q - z, exact in bf16.
// 0x4300 is 128 in bf16, whose last place is 1: or-ing q into it gives 128 + q.
LLAMA4RT_DEVICE void dequantise(uint32_t (&fragment)[4], uint32_t word, const uint32_t (&minus_bias)[2]) {
  constexpr uint32_t kMask = 0x000f000f, k128 = 0x43004300, kOne = 0x3f803f80;
  for (int r = 0; r < 4; ++r)
    fragment[r] = ptx::fma_bf16x2(ptx::and_or(word >> (4 * r), kMask, k128), kOne, minus_bias[r % 2]);
}

// -(128 + z) in both halves; 128 + z is exact in bf16.
LLAMA4RT_DEVICE uint32_t minus_bias_pair(int zero) {
  const float bias = -float(128 + zero);
  return ptx::pack_bf16(bias, bias);
}

template <class Config>
LLAMA4RT_DEVICE void multiply_tile(DecodeSums<Config>& sums, DecodeSums<Config>& group_sums,
                                   const DecodeBlock<Config>& b, int tile) {
  constexpr int kStepsPerGroup = Config::kGroup < Config::kTileColumns ? Config::kGroup / 16 : 4;
  const int lane = lane_index(), row = lane / 4;
  const U32x4 words = ptx::load_shared_v4(
      ptx::shared_address(b.shared_stages + tile % Config::kStages * Config::kTileBytes + lane * 16));
  const uint32_t word[4] = {words.x, words.y, words.z, words.w};
  const auto* scales = reinterpret_cast<const typename Config::Scale*>(b.shared_scales);
  // Row address of ldmatrix for this lane: token lane % 8, columns 8 * (lane / 8) of 32.
  const uint32_t x_address =
      ptx::shared_address(b.shared_x) +
      uint32_t(((lane % 8) * Config::kXStride + tile * Config::kTileColumns + lane / 8 * 8) * 2);
  for (int half = 0; half < 2; ++half) {  // 32 columns
    uint32_t x[Config::kTokenTiles][4];   // k16 steps 2 half and 2 half + 1, two registers each
    for (int i = 0; i < Config::kTokenTiles; ++i)
      ptx::ldmatrix_x4(x[i], x_address + uint32_t((i * 8 * Config::kXStride + half * 32) * 2));
    for (int s = 0; s < 2; ++s) {
      const int step = 2 * half + s;
      const int group = (tile * Config::kTileColumns + step * 16) / Config::kGroup;
      if (Config::kGroup < Config::kTileColumns && group >= b.groups) return;  // K ends inside the tile
      const int z0 = Config::kZeros ? b.shared_zeros[group * 16 + row] : 8;
      const int z1 = Config::kZeros ? b.shared_zeros[group * 16 + row + 8] : 8;
      const uint32_t minus_bias[2] = {minus_bias_pair(z0), minus_bias_pair(z1)};
      uint32_t w[4];
      dequantise(w, word[step], minus_bias);
      for (int i = 0; i < Config::kTokenTiles; ++i)
        ptx::mma_m16n8k16(group_sums.value[i], w, x[i][2 * s], x[i][2 * s + 1]);

      const bool tile_ends_group =
          Config::kGroup <= Config::kTileColumns || tile % 2 == 1 || tile + 1 == b.tiles;
      if ((step + 1) % kStepsPerGroup != 0 || !tile_ends_group) continue;
      const float scale0 = scale_value(scales[group * 16 + row]);
      const float scale1 = scale_value(scales[group * 16 + row + 8]);
      for (int i = 0; i < Config::kTokenTiles; ++i)
        for (int r = 0; r < 4; ++r)
          sums.value[i][r] = ptx::fma(group_sums.value[i][r], r < 2 ? scale0 : scale1, sums.value[i][r]);
      group_sums.clear();
    }
  }
}

// The block's sums in shared memory: [kTokens][kRows].
template <class Config>
LLAMA4RT_DEVICE void share_sums(float* shared, const DecodeSums<Config>& sums) {
  const int lane = lane_index(), row = warp_index() * 16 + lane / 4, token = lane % 4 * 2;
  for (int i = 0; i < Config::kTokenTiles; ++i)
    for (int r = 0; r < 4; ++r)
      shared[(i * 8 + token + r % 2) * Config::kRows + row + r / 2 * 8] = sums.value[i][r];
}

// Final sums (of all splits) to where they belong.  sum(token, row of the block) -> float.
template <class Config, class Sum>
LLAMA4RT_DEVICE void finish(const DecodeBlock<Config>& b, const Sum& sum) {
  const LinearInt4Args& a = b.a;
  if (a.finish == Finish::kSwiGlu) {
    // Of every 32 rows the first 16 are gates, the others the same outputs' ups.
    for (int i = thread_x(); i < b.num_tokens * (Config::kRows / 2); i += Config::kThreads) {
      const int token = i / (Config::kRows / 2), j = i % (Config::kRows / 2);
      const int gate_row = j / 16 * 32 + j % 16;
      const int f = block_x() * (Config::kRows / 2) + j;
      if (f >= a.num_f) continue;
      const float gate = sum(token, gate_row), up = sum(token, gate_row + 16);
      constexpr float kLog2E = 1.4426950408889634f;
      a.out[(b.first_token + token) * a.out_stride + f] = gate / (1.0f + ptx::exp2(-gate * kLog2E)) * up;
    }
  } else {
    for (int i = thread_x(); i < b.num_tokens * Config::kRows; i += Config::kThreads) {
      const int token = i / Config::kRows, row = i % Config::kRows;
      const int n = block_x() * Config::kRows + row;
      if (n >= a.n) continue;
      float* out = a.out + (b.first_token + token) * a.out_stride + n;
      const float value = sum(token, row);
      *out = a.finish == Finish::kAdd ? *out + value : value;
    }
  }
}

// Puts this split's sums beside the others'; true in all threads of the block that came last.
template <class Config>
LLAMA4RT_DEVICE bool publish_split(const DecodeBlock<Config>& b, const float* shared, float* mine) {
  for (int i = thread_x(); i < b.num_tokens * Config::kRows; i += Config::kThreads) mine[i] = shared[i];
  ptx::sync_threads();
  LLAMA4RT_SHARED(int, is_last, 1);
  if (thread_x() == 0) {
    uint32_t* ticket = b.a.tickets + block_z() * grid_x() + block_x();
    ptx::fence_device();
    const bool last = ptx::atomic_add(ticket, 1) == uint32_t(grid_y() - 1);
    if (last) *ticket = 0;  // for the next run
    ptx::fence_device();
    is_last[0] = last;
  }
  ptx::sync_threads();
  return is_last[0] != 0;
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads) linear_int4_decode_kernel(LinearInt4Args a) {
  const DecodeBlock<Config> b(a);

  if (b.has_rows) b.load_scales();
  for (int tile = 0; tile < Config::kStages - 1; ++tile) b.load_tile(tile);
  b.load_x();
  ptx::copy_wait<Config::kStages - 2>();  // scales and the first tile
  ptx::sync_threads();

  DecodeSums<Config> sums, group_sums;
  sums.clear();
  group_sums.clear();
  for (int tile = 0; tile < b.tiles; ++tile) {
    ptx::copy_wait<Config::kStages - 2>();
    if (b.has_rows) multiply_tile(sums, group_sums, b, tile);
    b.load_tile(tile + Config::kStages - 1);  // groups still open at the end are empty
  }

  ptx::sync_threads();  // the sums take the place of x
  auto* shared = reinterpret_cast<float*>(b.shared_x);
  share_sums<Config>(shared, sums);
  ptx::sync_threads();
  if (grid_y() == 1)
    return finish<Config>(b, [&](int token, int row) { return shared[token * Config::kRows + row]; });

  constexpr int64_t kPartial = Config::kTokens * Config::kRows;
  float* splits = a.partials + (int64_t(block_z()) * grid_x() + block_x()) * grid_y() * kPartial;
  if (!publish_split<Config>(b, shared, splits + block_y() * kPartial)) return;
  finish<Config>(b, [&](int token, int row) {
    float total = 0.0f;
    for (int s = 0; s < grid_y(); ++s) total += splits[s * kPartial + token * Config::kRows + row];
    return total;
  });
}

}  // namespace llama4rt::cuda
