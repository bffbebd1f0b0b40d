#include "base/checked_math.h"
#include "cuda/kernels/sample_choose.cuh"
#include "cuda/kernels/sample_scan.cuh"
#include "cuda/kernels/sampling.h"
#include "cuda/launch.h"
#include "cuda/launch_rows.h"

namespace llama4rt::cuda {
namespace {

constexpr int64_t kSmallVocabulary = 8192;
constexpr int kFewThreads = 256, kManyThreads = 768;
constexpr int kListTokens = 3584;
static_assert(kListTokens >= kManyThreads && sizeof(Ranked) == Sample::kRankedBytes);

}  // namespace

void Sample::run(Stream& stream, const SampleBatch& batch, Tensor logits, void* scratch, uint32_t* tickets) {
  const SampleArgs args{.logits = logits.ptr<float>(),
                        .best_of_run = static_cast<Ranked*>(scratch),
                        .tickets = tickets,
                        .batch = batch,
                        .logits_stride = logits.stride0,
                        .vocabulary = int(logits.size(1))};
  const int64_t runs = ceil_div(logits.size(1), int64_t(kRunTokens));
  constexpr int kScanThreads = 256;
  launch(
      "sample_scan",
      rows_aligned(logits) ? sample_scan_kernel<kScanThreads, true> : sample_scan_kernel<kScanThreads, false>,
      {.grid_x = int(ceil_div(runs, int64_t(kScanThreads / kWarpSize))),
       .grid_y = int(batch.num_rows),
       .threads = kScanThreads},
      stream, args);
  if (batch.all_plain) return;
  // Small vocabularies: fewer threads, so cheaper barriers. The sum of exponentials differs in its last bits,
  // with the vocabulary only.
  const bool small = logits.size(1) <= kSmallVocabulary;
  launch("sample_choose", small ? sample_choose_kernel<kFewThreads> : sample_choose_kernel<kManyThreads>,
         {.grid_x = int(batch.num_rows),
          .threads = small ? kFewThreads : kManyThreads,
          .dynamic_shared = size_t(runs + kListTokens) * sizeof(Ranked)},
         stream, args, kListTokens);
}

}  // namespace llama4rt::cuda
