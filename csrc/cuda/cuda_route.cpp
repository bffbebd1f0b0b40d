// CudaOps: the router's decision.
#include "cuda/cuda_ops.h"
#include "cuda/kernels/route.h"

namespace llama4rt {

void CudaOps::do_route(const Routing& routing, Tensor logits, Tensor h, const Weight& router) {
  const int64_t top_k = routing.expert_ids.size(1);
  if (h.size(0) == 0) return stream().fill(routing.offsets.data, 0, size_t(router.n + 1) * 4);
  const char* refusal = cuda::Route::refusal(router, top_k);
  LLAMA4RT_CHECK(kInternal, !refusal, "cuda: route of ", router.n, " experts x ", router.k, ", top_k ", top_k,
                 ": ", refusal);
  void* const counts = scratch(cuda::Route::scratch_bytes(h.size(0), router.n, top_k));
  cuda::Route::run(stream(), routing, logits, h, router, counts, tickets(cuda::Route::ticket_bytes()));
}

}  // namespace llama4rt
