// CudaOps: attention over pictures.
#include "cuda/cuda_ops.h"
#include "cuda/kernels/tiles.h"

namespace llama4rt {

void CudaOps::do_rotate_heads(Tensor x, Tensor rope) { cuda::run_rotate_heads(stream(), x, rope); }

void CudaOps::do_tile_attention(Tensor out, Tensor q, Tensor k, Tensor v, int64_t rows_per_tile,
                                int num_heads, float scale) {
  const cuda::TilesCall call{out, q, k, v, rows_per_tile, num_heads, scale};
  LLAMA4RT_CHECK(kInternal, cuda::TileAttention::supports(call), "cuda: tile_attention has no kernel for ",
                 call.num_tiles(), " tiles of ", rows_per_tile, " rows with heads of ", call.head_dim(),
                 "; heads may have at most 128 dims");
  cuda::TileAttention::run(stream(), call, scratch(cuda::TileAttention::scratch_bytes(call)));
}

}  // namespace llama4rt
