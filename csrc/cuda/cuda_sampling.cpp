// CudaOps: sampling.
#include "cuda/cuda_ops.h"
#include "cuda/kernels/sampling.h"

namespace llama4rt {

void CudaOps::do_sample(const SampleBatch& batch, Tensor logits) {
  void* const best = scratch(cuda::Sample::scratch_bytes(batch.num_rows, logits.size(1)));
  uint32_t* const counters = tickets(cuda::Sample::ticket_bytes(batch.num_rows));
  cuda::Sample::run(stream(), batch, logits, best, counters);
}

}  // namespace llama4rt
