// CudaBackend: the products of routed experts.
#include "cuda/cuda_backend.h"

namespace llama4rt {

void CudaBackend::do_experts_gate_up(Tensor, Tensor, const Weight&, const Routing&) {
  no_cuda_kernel("experts_gate_up");
}
void CudaBackend::do_experts_down_add(Tensor, Tensor, const Weight&, const Routing&) {
  no_cuda_kernel("experts_down_add");
}

}  // namespace llama4rt
