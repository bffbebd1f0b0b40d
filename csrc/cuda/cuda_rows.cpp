// CudaBackend: ops that work row by row.
#include "cuda/cuda_backend.h"
#include "cuda/kernels/rows.h"

namespace llama4rt {

void CudaBackend::do_rmsnorm(Tensor out, Tensor x, Tensor weight, float eps) {
  cuda::run_rmsnorm(stream_, out, x, weight, eps);
}
void CudaBackend::do_embed(Tensor, const Weight&, Tensor) { no_cuda_kernel("embed"); }
void CudaBackend::do_scatter_rows(Tensor, Tensor, Tensor) { no_cuda_kernel("scatter_rows"); }
void CudaBackend::do_gather_rows(Tensor, Tensor, Tensor) { no_cuda_kernel("gather_rows"); }
void CudaBackend::do_layernorm(Tensor, Tensor, Tensor, Tensor, float) { no_cuda_kernel("layernorm"); }
void CudaBackend::do_add_bias(Tensor, Tensor) { no_cuda_kernel("add_bias"); }
void CudaBackend::do_gelu(Tensor, Tensor) { no_cuda_kernel("gelu"); }

}  // namespace llama4rt
