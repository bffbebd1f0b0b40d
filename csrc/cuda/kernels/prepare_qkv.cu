#include "cuda/kernels/kv_launch.h"
#include "cuda/kernels/prepare_qkv.cuh"

namespace llama4rt::cuda {

bool PrepareQkv::supports(const KvLayer& kv) { return kv.head_dim % 2 == 0 && kv.head_dim <= 256; }

void PrepareQkv::run(Stream& stream, Tensor q, Tensor k, Tensor v, const QkvTransform& transform,
                     const KvLayer& kv, Tensor slot_mapping) {
  const PrepareQkvArgs args{.q = q.ptr<float>(),
                            .k = k.ptr<float>(),
                            .v = v.ptr<const float>(),
                            .rope = transform.rope.ptr<const float>(),
                            .q_scale = transform.q_scale.ptr<const float>(),
                            .slots = slot_mapping.ptr<const int64_t>(),
                            .kv = kv_blocks(kv),
                            .q_stride = q.stride0,
                            .k_stride = k.stride0,
                            .v_stride = v.stride0,
                            .num_q_heads = int(q.size(1) / kv.head_dim),
                            .qk_norm = transform.qk_norm,
                            .eps = transform.qk_norm_eps};
  launch_per_head<PrepareQkvConfig>("prepare_qkv", stream, args, kv, q.size(0),
                                    args.num_q_heads + 2 * kv.num_kv_heads,
                                    [](auto config) { return prepare_qkv_kernel<decltype(config)>; });
}

}  // namespace llama4rt::cuda
