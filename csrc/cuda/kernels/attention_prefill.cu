#include "base/checked_math.h"
#include "cuda/kernels/attention_args.h"
#include "cuda/kernels/attention_prefill.cuh"
#include "cuda/kernels/tiles.h"
#include "cuda/launch.h"

namespace llama4rt::cuda {
namespace {

template <class Head>
void start(Stream& stream, const AttentionArgs& args, int64_t max_rows, int num_seqs) {
  using Config = AttentionPrefillConfig<Head>;
  launch("attention_prefill", attention_prefill_kernel<Config>,
         {.grid_x = int(ceil_div(max_rows, int64_t(Config::kRows))),
          .grid_y = args.kv.num_heads,
          .grid_z = num_seqs,
          .threads = Config::kThreads,
          .dynamic_shared = Config::kSharedBytes},
         stream, args);
}

}  // namespace

bool AttentionPrefill::supports(const AttentionCall& call) { return mma_can_take(call); }

void AttentionPrefill::run(Stream& stream, const AttentionCall& call) {
  const AttentionArgs args = attention_args(call);
  with_head(call.kv,
            [&](auto head) { start<decltype(head)>(stream, args, call.max_rows(), call.batch.num_seqs); });
}

void run_packed_tiles(Stream& stream, const TilesCall& call, const KvLayer& packed) {
  AttentionArgs args = attention_args({call.out, call.q, packed, {}, call.scale});
  args.q_dim = call.head_dim();
  args.group = 1;
  args.rows_per_tile = int(call.rows_per_tile);
  with_head<KvBF16>(packed.head_dim, [&](auto head) {
    start<decltype(head)>(stream, args, call.rows_per_tile, packed.num_blocks);
  });
}

}  // namespace llama4rt::cuda
