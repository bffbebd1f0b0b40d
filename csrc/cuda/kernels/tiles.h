// Launchers of attention over pictures.
#pragma once

#include <cstddef>

#include "base/checked_math.h"
#include "base/tensor.h"
#include "cuda/runtime.h"
#include "ops/op_types.h"

namespace llama4rt::cuda {

// As Ops::rotate_heads. x: [tiles * R, heads * D]; rope: [R, D / 2, 2].
void run_rotate_heads(Stream& stream, Tensor x, Tensor rope);

// Ops::tile_attention's arguments.
struct TilesCall {
  Tensor out, q, k, v;  // [tiles * R, heads * D]
  int64_t rows_per_tile;
  int num_heads;
  float scale;

  int head_dim() const { return int(q.size(1) / num_heads); }
  int64_t num_tiles() const { return q.size(0) / rows_per_tile; }
};

// Keys and values become bf16 blocks of a cache, one per tile, with heads padded to 16 dims; then the prefill
// kernel of paged attention does the rest. Head dims up to 128.
struct TileAttention {
  static bool supports(const TilesCall& call);
  // The cache that tiles are packed into; without memory.
  static KvLayer packed_layer(const TilesCall& call) {
    return {.format = KvKind::kBF16,
            .num_blocks = int32_t(call.num_tiles()),
            .block_size = int(round_up(call.rows_per_tile, int64_t(16))),
            .num_kv_heads = call.num_heads,
            .head_dim = round_up(call.head_dim(), 16)};
  }
  // Keys and values, each num_blocks * block_bytes(). Grows with the number of tiles.
  static size_t scratch_bytes(const TilesCall& call) {
    const KvLayer packed = packed_layer(call);
    return 2 * size_t(packed.num_blocks * packed.block_bytes());
  }
  static void run(Stream& stream, const TilesCall& call, void* scratch);
};

// The second half of it (attention_prefill.cu).
void run_packed_tiles(Stream& stream, const TilesCall& call, const KvLayer& packed);

}  // namespace llama4rt::cuda
