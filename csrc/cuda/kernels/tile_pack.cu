#include "cuda/kernels/kv_launch.h"
#include "cuda/kernels/tile_pack.cuh"
#include "cuda/kernels/tiles.h"

namespace llama4rt::cuda {
namespace {

// The cache that tiles are packed into; without memory.
KvLayer packed_layer(const TilesCall& call) {
  return {.dtype = DType::kBF16,
          .num_blocks = int32_t(call.num_tiles()),
          .block_size = int(round_up(call.rows_per_tile, int64_t(16))),
          .num_kv_heads = call.num_heads,
          .head_dim = round_up(call.head_dim(), 16)};
}
size_t side_bytes(const KvLayer& kv) { return size_t(kv.num_blocks * kv.block_elements()) * 2; }

}  // namespace

bool TileAttention::supports(const TilesCall& call) {
  return call.head_dim() <= 128 && call.scale > 0 && call.num_heads <= 65535 && call.num_tiles() <= 65535 &&
         call.rows_per_tile < 1 << 20;
}

size_t TileAttention::scratch_bytes(const TilesCall& call) { return 2 * side_bytes(packed_layer(call)); }

void TileAttention::run(Stream& stream, const TilesCall& call, void* scratch) {
  KvLayer packed = packed_layer(call);
  packed.k = scratch;
  packed.v = static_cast<unsigned char*>(scratch) + side_bytes(packed);
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
