#include "base/checked_math.h"
#include "cuda/kernels/attention.h"
#include "cuda/kernels/attention_plain.cuh"
#include "cuda/launch.h"

namespace llama4rt::cuda {
namespace {

template <class Element>
void start(Stream& stream, const AttentionPlainArgs& args, int64_t tokens) {
  const auto launch_as = [&](auto config, auto kernel) {
    const int blocks = ceil_div(args.kv.num_heads * args.group, config.kWarps);
    launch("attention_plain", kernel, {.grid_x = int(tokens), .grid_y = blocks, .threads = config.kThreads},
           stream, args);
  };
  using Small = AttentionPlainConfig<Element, 128>;
  using Large = AttentionPlainConfig<Element, 256>;
  if (args.kv.head_dim <= 128) return launch_as(Small{}, attention_plain_kernel<Small>);
  launch_as(Large{}, attention_plain_kernel<Large>);
}

}  // namespace

bool AttentionPlain::supports(const AttentionCall& call) { return call.kv.head_dim <= 256; }

void AttentionPlain::run(Stream& stream, const AttentionCall& call) {
  const KvLayer& kv = call.kv;
  const AttentionPlainArgs args{.out = call.out.ptr<float>(),
                                .q = call.q.ptr<const float>(),
                                .kv = {.k = kv.k,
                                       .v = kv.v,
                                       .num_heads = kv.num_kv_heads,
                                       .block_size = kv.block_size,
                                       .head_dim = kv.head_dim,
                                       .cores = kv_in_cores(kv)},
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
  const int64_t tokens = call.q.size(0);
  if (kv.dtype == DType::kF32) return start<KvF32>(stream, args, tokens);
  if (kv.dtype == DType::kF8E4M3) return start<KvF8>(stream, args, tokens);
  start<KvBF16>(stream, args, tokens);
}

}  // namespace llama4rt::cuda
