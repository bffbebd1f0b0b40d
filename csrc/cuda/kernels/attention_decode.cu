#include <algorithm>

#include "cuda/kernels/attention_args.h"
#include "cuda/kernels/attention_decode.cuh"
#include "cuda/launch.h"

namespace llama4rt::cuda {
namespace {

// Blocks along the keys; more splits than that go around.
constexpr int kMaxBlocksOfKeys = 512;

}  // namespace

void AttentionDecode::run(Stream& stream, const AttentionCall& call, void* scratch, uint32_t* tickets) {
  AttentionArgs args = attention_args(call);
  args.states = static_cast<float*>(scratch);
  args.tickets = tickets;
  args.max_splits = Splits::count(call.max_keys());
  args.state_rows = state_rows(call.max_rows());
  with_head(call.kv, [&](auto head) {
    using Config = AttentionDecodeConfig<decltype(head)>;
    launch("attention_decode", attention_decode_kernel<Config>,
           {.grid_x = int(row_tiles(call.max_rows())) * call.kv.num_kv_heads,
            .grid_y = call.batch.num_seqs,
            .grid_z = std::min(args.max_splits, kMaxBlocksOfKeys),
            .threads = Config::kThreads,
            .dynamic_shared = Config::kSharedBytes},
           stream, args);
  });
}

}  // namespace llama4rt::cuda
