#include <algorithm>

#include "base/checked_math.h"
#include "cuda/kernels/attention_args.h"
#include "cuda/kernels/attention_decode.cuh"
#include "cuda/launch.h"

namespace llama4rt::cuda {
namespace {

// With more than 32 rows the keys would be read three times or more.
constexpr int64_t kMaxRows = 2 * kWarpRows;
// Partial results are small beside the keys, but there may be many sequences.
constexpr size_t kMaxScratch = size_t(1) << 30;
// Blocks along the keys; where there are more spans, a warp takes several.
constexpr int kMaxSplits = 512;

int64_t row_tiles(const AttentionCall& call) { return ceil_div(call.max_rows(), int64_t(kWarpRows)); }
int64_t places(const AttentionCall& call) {
  return int64_t(call.batch.num_seqs) * row_tiles(call) * call.kv.num_kv_heads;
}
int state_rows(const AttentionCall& call) { return int(std::min<int64_t>(call.max_rows(), kWarpRows)); }

}  // namespace

bool AttentionDecode::supports(const AttentionCall& call) {
  return mma_can_take(call) && call.max_rows() <= kMaxRows && scratch_bytes(call) <= kMaxScratch;
}

size_t AttentionDecode::scratch_bytes(const AttentionCall& call) {
  return size_t(places(call)) * size_t(Spans::count(call.max_keys())) *
         size_t(state_rows(call) * (call.kv.head_dim + 2)) * sizeof(float);
}
size_t AttentionDecode::ticket_bytes(const AttentionCall& call) {
  return size_t(places(call)) * sizeof(uint32_t);
}

void AttentionDecode::run(Stream& stream, const AttentionCall& call, void* scratch, uint32_t* tickets) {
  AttentionArgs args = attention_args(call);
  args.states = static_cast<float*>(scratch);
  args.tickets = tickets;
  args.max_spans = Spans::count(call.max_keys());
  args.state_rows = state_rows(call);
  with_head(call.kv, [&](auto head) {
    using Config = AttentionDecodeConfig<decltype(head), 4>;
    launch("attention_decode", attention_decode_kernel<Config>,
           {.grid_x = int(row_tiles(call)) * call.kv.num_kv_heads,
            .grid_y = call.batch.num_seqs,
            .grid_z = std::min(ceil_div(args.max_spans, Config::kWarps), kMaxSplits),
            .threads = Config::kThreads,
            .dynamic_shared = Config::kSharedBytes},
           stream, args);
  });
}

}  // namespace llama4rt::cuda
