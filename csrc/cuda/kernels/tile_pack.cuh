// tile_pack: keys and values of picture tiles, fp32 rows, into bf16 cores (kv_layout.cuh): a tile is a
// block of a cache, its rows padded to a multiple of 16 and its heads to a multiple of 16 dims, with zeros.
#pragma once

#include "cuda/device/kv_layout.cuh"
#include "cuda/device/overlap.cuh"
#include "cuda/simt.h"

namespace llama4rt::cuda {

struct TilePackArgs {
  const float* k;    // [tiles * R, heads * D], k_stride between rows
  const float* v;    // the same, v_stride
  KvBlocks kv;       // [tiles][heads][R and D rounded up], bf16 in cores
  int64_t k_stride;  // floats
  int64_t v_stride;
  int rows_per_tile;  // R
  int head_dim;       // D
};

// A block packs one row of 16 keys' worth of one head: x the granule, y the head, z the tile.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) tile_pack_kernel(TilePackArgs a) {
  wait_for_kernel_before();
  const int head = block_y(), tile = block_z(), first = block_x() * 16, dim = a.kv.head_dim;
  auto* const keys = static_cast<uint16_t*>(a.kv.k) + head_of_block(a.kv, tile, head);
  auto* const values = static_cast<uint16_t*>(a.kv.v) + head_of_block(a.kv, tile, head);
  for (int i = thread_x(); i < 16 * dim; i += kThreads) {
    const int key = first + i / dim, d = i % dim;
    const int64_t row = int64_t(tile) * a.rows_per_tile + key, column = int64_t(head) * a.head_dim + d;
    const bool exists = key < a.rows_per_tile && d < a.head_dim;
    KvBF16::store(keys + key_place<KvBF16>(a.kv, key, d), exists ? a.k[row * a.k_stride + column] : 0.0f);
    KvBF16::store(values + value_place<KvBF16>(a.kv, key, d), exists ? a.v[row * a.v_stride + column] : 0.0f);
  }
}

}  // namespace llama4rt::cuda
