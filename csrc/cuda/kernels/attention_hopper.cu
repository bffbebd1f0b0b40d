#include "base/checked_math.h"
#include "cuda/kernels/attention_args.h"
#include "cuda/kernels/attention_hopper.cuh"
#include "cuda/launch.h"

namespace llama4rt::cuda {

bool AttentionHopper::supports(const AttentionCall& call, int compute_major) {
  // Half of a block's 128 rows would be empty with fewer.
  constexpr int64_t kFewestRows = 65;
  return compute_major == 9 && mma_can_take(call) && call.kv.format == KvKind::kBF16 &&
         (call.kv.head_dim == 64 || call.kv.head_dim == 128) && call.max_rows() >= kFewestRows;
}

void AttentionHopper::run(Stream& stream, const AttentionCall& call) {
  const AttentionArgs args = attention_args(call);
  const auto start = [&](auto config, auto kernel) {
    launch("attention_hopper", kernel,
           {.grid_x = int(ceil_div(call.max_rows(), int64_t(config.kRows))),
            .grid_y = call.kv.num_kv_heads,
            .grid_z = call.batch.num_seqs,
            .threads = config.kThreads,
            .dynamic_shared = size_t(config.kSharedBytes)},
           stream, args);
  };
  using Small = AttentionHopperConfig<64>;
  using Large = AttentionHopperConfig<128>;
  if (call.kv.head_dim == 64) return start(Small{}, attention_hopper_kernel<Small>);
  start(Large{}, attention_hopper_kernel<Large>);
}

}  // namespace llama4rt::cuda
