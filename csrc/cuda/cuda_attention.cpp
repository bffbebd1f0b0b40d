// CudaBackend: attention over the paged cache.
#include "cuda/cuda_backend.h"

namespace llama4rt {

void CudaBackend::do_prepare_qkv(Tensor, Tensor, Tensor, const QkvTransform&, const KvLayer&, Tensor) {
  no_cuda_kernel("prepare_qkv");
}
void CudaBackend::do_paged_attention(Tensor, Tensor, const KvLayer&, const AttentionBatch&, float) {
  no_cuda_kernel("paged_attention");
}

}  // namespace llama4rt
