#include "cuda/kernels/kv_launch.h"
#include "cuda/kernels/tile_pack.cuh"
#include "cuda/kernels/tiles.h"

namespace llama4rt::cuda {
bool TileAttention::supports(const TilesCall& call) {
  return call.head_dim() <= 128 && call.scale > 0 && call.num_heads <= 65535 && call.num_tiles() <= 65535 &&
         call.rows_per_tile < 1 << 20;
}

void TileAttention::run(Stream& stream, const TilesCall& call, void* scratch) {
  KvLayer packed = packed_layer(call);
  packed.k = scratch;
  packed.v = static_cast<unsigned char*>(scratch) + packed.num_blocks * packed.block_bytes();
  const TilePackArgs args{.k = call.k.ptr<const float>(),
                          .v = call.v.ptr<const float>(),
                          .kv = kv_blocks(packed),
                          .k_stride = call.k.stride0,
                          .v_stride = call.v.stride0,
                          .rows_per_tile = int(call.rows_per_tile),
                          .head_dim = call.head_dim()};
  constexpr int kThreads = 128;
  launch("tile_pack", tile_pack_kernel<kThreads>,
         {.grid_x = packed.block_size / 16,
          .grid_y = packed.num_kv_heads,
          .grid_z = packed.num_blocks,
          .threads = kThreads},
         stream, args);
  run_packed_tiles(stream, call, packed);
}

}  // namespace llama4rt::cuda
