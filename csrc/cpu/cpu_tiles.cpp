// Attention over picture tiles: every row of a tile sees all rows of it. The keys and values of one tile are
// laid out like one block of a KV cache per head, so that the kernels of paged attention serve here as well.
#include <algorithm>

#include "cpu/cpu_ops.h"

namespace llama4rt {

using cpu::AttentionTile;
using cpu::kMaxAttentionRows;

void CpuOps::do_rotate_heads(Tensor x, Tensor rope) {
  const int64_t dim = 2 * rope.size(1);
  for_rows(x.size(0), x.size(1), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t i = 0; i < x.size(1); i += dim)
        kernels_.transform_head(x.row<float>(t) + i, rope.row<const float>(t % rope.size(0)), -1.0f, 1.0f,
                                dim);
  });
}

void CpuOps::do_tile_attention(Tensor out, Tensor q, Tensor k, Tensor v, int64_t rows_per_tile, int num_heads,
                               float scale) {
  const int64_t dim = q.size(1) / num_heads, state_size = cpu::attention_state_floats(dim);
  KvLayer kv{.format = KvKind::kF32,
             .num_blocks = 1,
             .block_size = int(round_up(rows_per_tile, int64_t(16))),
             .num_kv_heads = num_heads,
             .head_dim = int(dim)};
  kv.k = tile_keys_.get<float>(kv.block_elements());
  kv.v = tile_values_.get<float>(kv.block_elements());
  const int32_t block = 0;
  const int64_t units_per_head = ceil_div(rows_per_tile, int64_t(kMaxAttentionRows));
  reserve_attention(kMaxAttentionRows, dim);
  for (int64_t first = 0; first < q.size(0); first += rows_per_tile) {
    for_rows(rows_per_tile, 2 * q.size(1), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        for (int64_t head = 0; head < num_heads; ++head)
          kernels_.store_kv(kv, i, head, k.row<const float>(first + i) + head * dim,
                            v.row<const float>(first + i) + head * dim);
    });
    team_.share(num_heads * units_per_head, [&](int member, int64_t unit) {
      const int64_t head = unit / units_per_head, begin = unit % units_per_head * kMaxAttentionRows;
      AttentionTile tile;
      tile.num_rows = int(std::min<int64_t>(kMaxAttentionRows, rows_per_tile - begin));
      for (int64_t i = 0; i < tile.num_rows; ++i) {
        tile.q[i] = q.row<const float>(first + begin + i) + head * dim;
        tile.num_keys[i] = rows_per_tile;
      }
      tile.kv = &kv;
      tile.kv_head = head;
      tile.blocks = &block;
      tile.scale = scale;
      const float* states = attend_all(member, std::span(&tile, 1));
      for (int64_t i = 0; i < tile.num_rows; ++i)
        kernels_.finish_state(out.row<float>(first + begin + i) + head * dim, states + i * state_size, dim);
    });
  }
}

}  // namespace llama4rt
