// CudaOps: attention over the paged cache.
#include "cuda/cuda_device.h"
#include "cuda/cuda_ops.h"
#include "cuda/kernels/attention.h"

namespace llama4rt {

void CudaOps::do_prepare_qkv(Tensor q, Tensor k, Tensor v, const QkvTransform& transform, const KvLayer& kv,
                             Tensor slot_mapping) {
  LLAMA4RT_CHECK(kInternal, cuda::PrepareQkv::supports(kv),
                 "cuda: prepare_qkv has no kernel for a head dim of ", kv.head_dim, "; at most 256");
  cuda::PrepareQkv::run(stream(), q, k, v, transform, kv, slot_mapping);
}

void CudaOps::do_paged_attention(Tensor out, Tensor q, const KvLayer& kv, const AttentionBatch& batch,
                                 float scale) {
  const cuda::AttentionCall call{out, q, kv, batch, scale};
  if (cuda::AttentionDecode::supports(call))
    return cuda::AttentionDecode::run(stream(), call, scratch(cuda::AttentionDecode::scratch_bytes(call)),
                                      tickets(cuda::AttentionDecode::ticket_bytes(call)));
  if (cuda::AttentionHopper::supports(call, device_.info().major))
    return cuda::AttentionHopper::run(stream(), call);
  if (cuda::AttentionPrefill::supports(call)) return cuda::AttentionPrefill::run(stream(), call);
  LLAMA4RT_CHECK(kInternal, cuda::AttentionPlain::supports(call),
                 "cuda: paged_attention has no kernel for a head dim of ", kv.head_dim, "; at most 256");
  cuda::AttentionPlain::run(stream(), call);
}

}  // namespace llama4rt
