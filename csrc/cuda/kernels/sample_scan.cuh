// The first pass of sampling: the best token of each row, and whether the row is finite. Rows that need
// nothing else are done after it.
//
// A row is cut into *runs* of 256 tokens, one warp each, eight to a block, so that one row alone reaches
// every multiprocessor. The best of each run stays in memory: sample_choose begins with them.
#pragma once

#include "cuda/device/finish.cuh"
#include "cuda/device/overlap.cuh"
#include "cuda/device/sampling.cuh"
#include "cuda/device/vec.cuh"
#include "cuda/kernels/sampling.h"
#include "cuda/simt.h"

namespace llama4rt::cuda {

inline constexpr uint32_t kNotFinite = 0xffffffffu;  // the key of a run that holds NaN or infinity

struct SampleArgs {
  float* logits;        // [S, V], logits_stride between rows
  Ranked* best_of_run;  // [S, ceil(V / 256)]
  uint32_t* tickets;    // [S], zero between runs
  SampleBatch batch;
  int64_t logits_stride;
  int vocabulary;  // V
};

LLAMA4RT_DEVICE int num_runs(const SampleArgs& a) { return (a.vocabulary + kRunTokens - 1) / kRunTokens; }

LLAMA4RT_DEVICE bool is_plain(const SampleRow& row) {
  return row.greedy != 0 && row.num_edits == 0 && row.mask < 0 && row.num_logprobs < 0;
}

// grid: (ceil(runs / warps), S).
template <int kThreads, bool kAligned>
__global__ void __launch_bounds__(kThreads) sample_scan_kernel(SampleArgs a) {
  wait_for_kernel_before();
  constexpr int kWarps = kThreads / kWarpSize;
  const int64_t s = block_y();
  const int runs = num_runs(a);
  const float* row = a.logits + s * a.logits_stride;
  Ranked* best_of_run = a.best_of_run + s * runs;

  const int run = block_x() * kWarps + warp_index();
  if (run < runs) {
    Ranked best;
    bool finite = true;
    for (int half = 0; half < 2; ++half) {
      const int first = run * kRunTokens + half * 128 + lane_index() * 4;
      const F32x4 x = load4<kAligned>(row, first, a.vocabulary);
      for (int j = 0; j < 4; ++j) {
        if (first + j >= a.vocabulary) continue;
        finite = finite && (ptx::bits_from_float(x.v[j]) & 0x7fffffffu) < 0x7f800000u;
        const Ranked here{order_key(x.v[j]), first + j};
        if (here.before(best)) best = here;
      }
    }
    if (!finite) best.key = kNotFinite;
    best = warp_best(best);
    if (lane_index() == 0) best_of_run[run] = best;
  }
  if (!last_to_arrive(a.tickets + s, grid_x())) return;

  if (warp_index() > 0) return;
  Ranked best;
  for (int i = lane_index(); i < runs; i += kWarpSize)
    if (best_of_run[i].before(best)) best = best_of_run[i];
  best = warp_best(best);
  if (lane_index() > 0) return;
  SampledRow out;
  if (best.key != kNotFinite) {
    out.token = best.index;
    out.logit = out.max = row[best.index];
  }
  a.batch.sampled[s] = out;
  if (a.batch.next_ids) a.batch.next_ids[s] = out.token;
}

}  // namespace llama4rt::cuda
