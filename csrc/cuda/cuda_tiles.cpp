// CudaBackend: attention over pictures.
#include "cuda/cuda_backend.h"

namespace llama4rt {

void CudaBackend::do_rotate_heads(Tensor, Tensor) { no_cuda_kernel("rotate_heads"); }
void CudaBackend::do_tile_attention(Tensor, Tensor, Tensor, Tensor, int64_t, int, float) {
  no_cuda_kernel("tile_attention");
}

}  // namespace llama4rt
