#include "base/checked_math.h"
#include "cuda/kernels/attention.h"
#include "cuda/kernels/prepare_qkv.cuh"
#include "cuda/launch.h"

namespace llama4rt::cuda {
namespace {

template <class Element>
void start(Stream& stream, const PrepareQkvArgs& args, int64_t tokens) {
  const auto launch_as = [&](auto config, auto kernel) {
    const int blocks = ceil_div(args.num_q_heads + 2 * args.kv.num_heads, config.kWarps);
    launch("prepare_qkv", kernel, {.grid_x = int(tokens), .grid_y = blocks, .threads = config.kThreads},
           stream, args);
  };
  using Small = PrepareQkvConfig<Element, 128>;
  using Large = PrepareQkvConfig<Element, 256>;
  if (args.kv.head_dim <= 128) return launch_as(Small{}, prepare_qkv_kernel<Small>);
  launch_as(Large{}, prepare_qkv_kernel<Large>);
}

}  // namespace

bool kv_in_cores(const KvLayer& kv) {
  return kv.dtype != DType::kF32 && kv.head_dim % 16 == 0 && kv.head_dim <= 128 && kv.block_size % 16 == 0;
}

bool PrepareQkv::supports(const KvLayer& kv) { return kv.head_dim % 2 == 0 && kv.head_dim <= 256; }

void PrepareQkv::run(Stream& stream, Tensor q, Tensor k, Tensor v, const QkvTransform& transform,
                     const KvLayer& kv, Tensor slot_mapping) {
  const PrepareQkvArgs args{.q = q.ptr<float>(),
                            .k = k.ptr<float>(),
                            .v = v.ptr<const float>(),
                            .rope = transform.rope.ptr<const float>(),
                            .q_scale = transform.q_scale.ptr<const float>(),
                            .slots = slot_mapping.ptr<const int64_t>(),
                            .kv = {.k = kv.k,
                                   .v = kv.v,
                                   .num_heads = kv.num_kv_heads,
                                   .block_size = kv.block_size,
                                   .head_dim = kv.head_dim,
                                   .cores = kv_in_cores(kv)},
                            .q_stride = q.stride0,
                            .k_stride = k.stride0,
                            .v_stride = v.stride0,
                            .num_q_heads = int(q.size(1) / kv.head_dim),
                            .qk_norm = transform.qk_norm,
                            .eps = transform.qk_norm_eps};
  const int64_t tokens = q.size(0);
  if (kv.dtype == DType::kF32) return start<KvF32>(stream, args, tokens);
  if (kv.dtype == DType::kF8E4M3) return start<KvF8>(stream, args, tokens);
  start<KvBF16>(stream, args, tokens);
}

}  // namespace llama4rt::cuda
