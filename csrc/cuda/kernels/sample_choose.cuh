// The second pass of sampling: everything but the plain greedy rows, which it skips. One block per row.
//
// Everything that decides is exact: weights have the host's bits (device/sampling.cuh), their sums are
// integers, keys of logits are compared as the host compares logits. So the token is the host's, bit for bit.
//
//   best n        round after round the best of what is left: the runs' best (sample_scan), then the run of
//                 the winner is looked through again
//   kept tokens   the worst token that top-k or top-p leaves: its key bit pair by bit pair, each time summing
//                 (tokens, or their weights) over all keys not below three candidates; then, among equals,
//                 its place in order of id. Before that, the tokens within a few temperatures of the best are
//                 gathered in shared memory, in order of id; nearly always they are enough, and the row is
//                 not read again.
//   draw          sums of runs, then the run, then the token where the cumulative weight passes the target
#pragma once

#include "cuda/device/overlap.cuh"
#include "cuda/device/sampling.cuh"
#include "cuda/kernels/sample_scan.cuh"
#include "cuda/ptx/bits.cuh"
#include "cuda/ptx/sync.cuh"
#include "cuda/simt.h"

namespace llama4rt::cuda {

// The worst token that is kept.
struct LastKept {
  uint32_t key = 0;
  int id = 0x7fffffff;
  LLAMA4RT_DEVICE bool keeps(uint32_t k, int i) const { return k != key ? k > key : i <= id; }
};

// One row's work. Its *items* are all tokens of the row, or those that gather() found; in order of id.
template <int kThreads>
struct SampleBlock {
  static constexpr int kWarps = kThreads / kWarpSize;
  const SampleArgs& a;
  const SampleRow& params;
  float* row;            // [V] logits, edited in place
  const uint32_t* mask;  // or null
  uint64_t* sums;        // shared [runs]
  Ranked* list;          // shared [capacity]
  int capacity;
  uint64_t* found;  // shared [1]: what one warp tells the block
  int items;        // V, or the length of the list
  bool gathered = false;
  float max = 0;  // of the edited row

  // The edited logit.
  LLAMA4RT_DEVICE float value(int id) const {
    const bool allowed = !mask || (mask[id / 32] >> (id % 32) & 1u) != 0;
    return allowed ? row[id] : ptx::float_from_bits(0xff800000u);
  }
  LLAMA4RT_DEVICE Ranked item(int i) const {
    if (gathered) return list[i];
    return {order_key(value(i)), i};
  }
  LLAMA4RT_DEVICE uint64_t weight(const Ranked& r) const {
    return weight_of(value_of_key(r.key), max, params.temperature, params.min_p);
  }
  LLAMA4RT_DEVICE int runs() const { return (items + kRunTokens - 1) / kRunTokens; }

  // f(item) for every item.
  template <class F>
  LLAMA4RT_DEVICE void for_each_item(const F& f) const {
    for (int i = thread_x(); i < items; i += kThreads) f(item(i));
  }

  // sums[run] = sum of measure(item) over the run; gives the total. All threads call it.
  template <class Measure>
  LLAMA4RT_DEVICE uint64_t sum_runs(const Measure& measure) const {
    ptx::sync_threads();  // the memory of sums is in use until here
    for (int run = warp_index(); run < runs(); run += kWarps) {
      uint64_t sum = 0;
      for (int i = lane_index(); i < kRunTokens; i += kWarpSize)
        if (run * kRunTokens + i < items) sum += measure(item(run * kRunTokens + i));
      sum = warp_total(sum);
      if (lane_index() == 0) sums[run] = sum;
    }
    ptx::sync_threads();
    uint64_t total = 0;
    for (int run = lane_index(); run < runs(); run += kWarpSize) total += sums[run];
    return warp_total(total);
  }

  // The first item, in order of id, at which the cumulative measure exceeds `target` < total. After sum_runs
  // with the same measure. All threads call it.
  template <class Measure>
  LLAMA4RT_DEVICE Ranked find_item(const Measure& measure, uint64_t target) const {
    ptx::sync_threads();  // what was found before has been read
    if (warp_index() == 0) {
      const int per_lane = (runs() + kWarpSize - 1) / kWarpSize;
      uint64_t own = 0;
      for (int i = 0; i < per_lane; ++i) {
        const int run = lane_index() * per_lane + i;
        if (run < runs()) own += sums[run];
      }
      const uint64_t through = warp_through(own);
      // Sums ascend, so the lanes that have not passed the target are the lower ones.
      const int lane = ptx::popcount(~ptx::ballot(through > target)) % kWarpSize;
      uint64_t before = shuffle64(through - own, lane);
      int run = lane * per_lane;
      while (run + 1 < runs() && before + sums[run] <= target) before += sums[run++];
      for (int first = run * kRunTokens; first < (run + 1) * kRunTokens; first += kWarpSize) {
        const int i = first + lane_index();
        const uint64_t passed = before + warp_through(i < items ? measure(item(i)) : 0);
        const uint32_t over = ptx::ballot(passed > target);
        if (over != 0) {
          if (lane_index() == 0) found[0] = uint64_t(first + ptx::popcount(~over));
          break;
        }
        before = shuffle64(passed, kWarpSize - 1);
      }
    }
    ptx::sync_threads();
    return item(int(found[0]));
  }

  // Makes items of the tokens that are not below `threshold`. Does nothing when they are more than `capacity`
  // or fewer than `fewest`. All threads call it.
  LLAMA4RT_DEVICE void gather(uint32_t threshold, uint64_t fewest) {
    const auto is_near = [&](const Ranked& r) -> uint64_t { return r.key >= threshold; };
    const uint64_t count = sum_runs(is_near);
    if (count < fewest || count > uint64_t(capacity)) return;
    ptx::sync_threads();      // the total has been added up
    if (warp_index() == 0) {  // sums become places
      uint64_t before = 0;
      for (int first = 0; first < runs(); first += kWarpSize) {
        const int run = first + lane_index();
        const uint64_t own = run < runs() ? sums[run] : 0, through = warp_through(own);
        if (run < runs()) sums[run] = before + through - own;
        before += shuffle64(through, kWarpSize - 1);
      }
    }
    ptx::sync_threads();
    for (int run = warp_index(); run < runs(); run += kWarps) {
      int place = int(sums[run]);
      if (place == int(run + 1 < runs() ? sums[run + 1] : count)) continue;
      for (int first = run * kRunTokens; first < (run + 1) * kRunTokens; first += kWarpSize) {
        const int i = first + lane_index();
        const Ranked r = i < items ? item(i) : Ranked{};
        const uint32_t takers = ptx::ballot(i < items && is_near(r) != 0);
        const uint32_t lower = (1u << lane_index()) - 1u;
        if (takers >> lane_index() & 1u) list[place + ptx::popcount(takers & lower)] = r;
        place += ptx::popcount(takers);
      }
    }
    ptx::sync_threads();
    gathered = true;
    items = int(count);
  }
  LLAMA4RT_DEVICE void take_all() {
    gathered = false;
    items = a.vocabulary;
  }

  // The worst token of the fewest best whose measures sum up to `needed`, 1 <= needed <= total. measure must
  // be the same for equal logits. All threads call it.
  template <class Measure>
  LLAMA4RT_DEVICE LastKept last_kept(const Measure& measure, uint64_t needed) const {
    LLAMA4RT_SHARED(uint64_t, of_warp, 3 * kWarps);
    LastKept last;
    uint64_t above = 0;  // sum over keys above the candidates
    for (int shift = 30; shift >= 0; shift -= 2) {
      uint64_t own0 = 0, own1 = 0, own2 = 0;
      for_each_item([&](const Ranked& r) {
        if (r.key < last.key + (1u << shift)) return;
        const uint64_t m = measure(r);
        own0 += m;
        if (r.key >= last.key + (2u << shift)) own1 += m;
        if (r.key >= last.key + (3u << shift)) own2 += m;
      });
      own0 = warp_total(own0);
      own1 = warp_total(own1);
      own2 = warp_total(own2);
      ptx::sync_threads();  // of_warp is free again
      if (lane_index() == 0) {
        of_warp[warp_index()] = own0;
        of_warp[kWarps + warp_index()] = own1;
        of_warp[2 * kWarps + warp_index()] = own2;
      }
      ptx::sync_threads();
      uint64_t sum0 = 0, sum1 = 0, sum2 = 0;
      for (int w = 0; w < kWarps; ++w) {
        sum0 += of_warp[w];
        sum1 += of_warp[kWarps + w];
        sum2 += of_warp[2 * kWarps + w];
      }
      const uint32_t step = sum2 >= needed ? 3 : sum1 >= needed ? 2 : sum0 >= needed ? 1 : 0;
      if (step < 3) above = step == 2 ? sum2 : step == 1 ? sum1 : sum0;
      last.key += step << shift;
    }
    // Of the tokens with just this key, the first so many.
    const auto is_equal = [&](const Ranked& r) -> uint64_t { return r.key == last.key && measure(r) > 0; };
    sum_runs(is_equal);
    const uint64_t each = measure(find_item(is_equal, 0));
    last.id = find_item(is_equal, each > 0 ? (needed - above + each - 1) / each - 1 : 0).index;
    return last;
  }
};

// The best `count` tokens of the row before any edit, and the sum of its exponentials in an order that
// depends on the vocabulary only.
template <int kThreads>
LLAMA4RT_DEVICE void write_logprobs(const SampleBlock<kThreads>& b, const Ranked* best_of_run, float max,
                                    int64_t s) {
  constexpr int kWarps = kThreads / kWarpSize;
  const SampleArgs& a = b.a;
  auto* parts = reinterpret_cast<double*>(b.list);  // [kThreads]
  double sum = 0;
  for (int id = thread_x(); id < a.vocabulary; id += kThreads)
    sum += double(exp_of_sampling(ptx::add(b.row[id], -max)));
  parts[thread_x()] = sum;
  // The runs' best, of which `left[run]` is the best that is not yet written.
  auto* left = reinterpret_cast<Ranked*>(b.sums);
  for (int run = thread_x(); run < num_runs(a); run += kThreads) left[run] = best_of_run[run];
  ptx::sync_threads();
  if (warp_index() == 1 % kWarps) {
    double total = 0;
    for (int i = 0; i < kWarps; ++i) total += parts[i * kWarpSize + lane_index()];
    parts[lane_index()] = total;
    ptx::sync_warp(0xffffffffu);
    if (lane_index() == 0) {
      total = 0;
      for (int i = 0; i < kWarpSize; ++i) total += parts[i];
      a.batch.sampled[s].total = total;
    }
  }
  if (warp_index() != 0) return;
  const int count = b.params.num_logprobs < a.vocabulary ? b.params.num_logprobs : a.vocabulary;
  for (int n = 0; n < count; ++n) {
    Ranked best;
    for (int run = lane_index(); run < num_runs(a); run += kWarpSize)
      if (left[run].before(best)) best = left[run];
    best = warp_best(best);
    if (lane_index() == 0) a.batch.top[s * kMaxTopLogprobs + n] = {best.index, b.row[best.index]};
    const int run = best.index / kRunTokens;
    Ranked next;
    for (int id = run * kRunTokens + lane_index(); id < (run + 1) * kRunTokens && id < a.vocabulary;
         id += kWarpSize) {
      const Ranked here{order_key(b.row[id]), id};
      if (best.before(here) && here.before(next)) next = here;
    }
    next = warp_best(next);
    ptx::sync_warp(0xffffffffu);  // all have read
    if (lane_index() == 0) left[run] = next;
    ptx::sync_warp(0xffffffffu);
  }
}

// The best token of the edited row, in all threads.
template <int kThreads>
LLAMA4RT_DEVICE Ranked best_token(const SampleBlock<kThreads>& b) {
  constexpr int kWarps = kThreads / kWarpSize;
  LLAMA4RT_SHARED(Ranked, of_warp, kWarps);
  Ranked best;
  b.for_each_item([&](const Ranked& r) {
    if (r.before(best)) best = r;
  });
  best = warp_best(best);
  if (lane_index() == 0) of_warp[warp_index()] = best;
  ptx::sync_threads();
  for (int w = 0; w < kWarps; ++w)
    if (of_warp[w].before(best)) best = of_warp[w];
  return best;
}

// Gathers the tokens near the best when that may be enough to keep `fewest` of them; else takes all.
template <int kThreads>
LLAMA4RT_DEVICE void gather_near_best(SampleBlock<kThreads>& b, uint64_t fewest, float temperatures) {
  b.take_all();
  b.gather(order_key(b.max - temperatures * b.params.temperature), fewest);
}

// A draw from the edited row, in all threads.
template <int kThreads>
LLAMA4RT_DEVICE int draw_token(SampleBlock<kThreads>& b) {
  const SampleRow& p = b.params;
  LastKept last;  // keeps everything
  const auto kept_weight = [&](const Ranked& r) -> uint64_t {
    return last.keeps(r.key, r.index) ? b.weight(r) : 0;
  };
  // Weights beyond 8 temperatures are below 4e-4 of the best, beyond 16 below 2e-7.
  constexpr float kNear = 8.0f, kFar = 16.0f;
  if (p.top_k > 0 && p.top_k < b.a.vocabulary) {
    gather_near_best(b, uint64_t(p.top_k), kNear);
    if (!b.gathered) gather_near_best(b, uint64_t(p.top_k), kFar);
    last = b.last_kept([](const Ranked&) -> uint64_t { return 1; }, uint64_t(p.top_k));
  }
  if (p.top_p < 1) {
    const double wanted =
        p.top_p * double(b.sum_runs(kept_weight));  // a power of two times the host's number
    uint64_t needed = uint64_t(wanted);
    if (double(needed) < wanted) ++needed;
    if (!b.gathered) gather_near_best(b, 1, kNear);
    if (b.gathered && b.sum_runs(kept_weight) < needed) gather_near_best(b, 1, kFar);
    if (b.gathered && b.sum_runs(kept_weight) < needed) b.take_all();
    last = b.last_kept(kept_weight, needed);
  }
  const uint64_t total = b.sum_runs(kept_weight);
  // Below the total: no product with a number below 1 rounds up to it.
  return b.find_item(kept_weight, uint64_t(p.uniform * double(total))).index;
}

// grid: (S). Dynamic shared memory: 8 bytes for each run and each item of the list, whose capacity is at
// least kThreads.
template <int kThreads>
__global__ void __launch_bounds__(kThreads, 1) sample_choose_kernel(SampleArgs a, int capacity) {
  wait_for_kernel_before();
  const int64_t s = block_x();
  const SampleRow& params = a.batch.rows[s];
  SampledRow& out = a.batch.sampled[s];
  if (is_plain(params) || out.token < 0) return;
  LLAMA4RT_SHARED(uint64_t, found, 1);
  const int64_t mask_words = (a.vocabulary + 31) / 32;
  auto* sums = reinterpret_cast<uint64_t*>(dynamic_shared());
  SampleBlock<kThreads> b{.a = a,
                          .params = params,
                          .row = a.logits + s * a.logits_stride,
                          .mask = params.mask < 0 ? nullptr : a.batch.masks + params.mask * mask_words,
                          .sums = sums,
                          .list = reinterpret_cast<Ranked*>(sums + num_runs(a)),
                          .capacity = capacity,
                          .found = found,
                          .items = a.vocabulary};
  b.max = out.max;
  int token = out.token;
  if (params.num_logprobs >= 0) write_logprobs<kThreads>(b, a.best_of_run + s * num_runs(a), out.max, s);
  SampleEdit* edits = a.batch.edits + params.first_edit;
  if (params.num_edits > 0 || b.mask) {
    ptx::sync_threads();  // log probabilities are of the row as it was
    for (int i = thread_x(); i < params.num_edits; i += kThreads) {
      float& logit = b.row[edits[i].id];
      edits[i].raw = logit;
      logit = edited(logit, edits[i], params);
    }
    ptx::sync_threads();
    const Ranked best = best_token<kThreads>(b);
    token = best.index;
    b.max = b.value(token);
    if ((ptx::bits_from_float(b.max) & 0x7fffffffu) >= 0x7f800000u) token = -1;
  }
  if (token >= 0 && params.greedy == 0) token = draw_token<kThreads>(b);
  if (thread_x() == 0) {
    out.token = token;
    if (a.batch.next_ids) a.batch.next_ids[s] = token;
    if (token >= 0) out.logit = b.row[token];
  }
  ptx::sync_threads();
  for (int i = thread_x(); i < params.num_edits; i += kThreads)
    if (edits[i].id == token) out.logit = edits[i].raw;
}

}  // namespace llama4rt::cuda
