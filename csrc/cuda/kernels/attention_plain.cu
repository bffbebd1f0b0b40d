#include "cuda/kernels/attention_plain.cuh"
#include "cuda/kernels/kv_launch.h"

namespace llama4rt::cuda {

bool AttentionPlain::supports(const AttentionCall& call) { return call.kv.head_dim <= 256; }

void AttentionPlain::run(Stream& stream, const AttentionCall& call) {
  const KvLayer& kv = call.kv;
  const AttentionPlainArgs args{.out = call.out.ptr<float>(),
                                .q = call.q.ptr<const float>(),
                                .kv = kv_blocks(kv),
                                .query_start = call.batch.query_start,
                                .first_position = call.batch.first_position,
                                .kv_begin = call.batch.kv_begin,
                                .block_table = call.batch.block_table,
                                .out_stride = call.out.stride0,
                                .q_stride = call.q.stride0,
                                .num_seqs = call.batch.num_seqs,
                                .max_blocks = call.batch.max_blocks,
                                .group = call.group(),
                                .scale = call.scale};
  launch_per_head<AttentionPlainConfig>("attention_plain", stream, args, kv, call.q.size(0),
                                        kv.num_kv_heads * args.group,
                                        [](auto config) { return attention_plain_kernel<decltype(config)>; });
}

}  // namespace llama4rt::cuda
