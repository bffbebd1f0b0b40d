// The definition of sampling: full sorts and sums in plain order, on a copy of the row.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "reference/reference_ops.h"

namespace llama4rt {
namespace {

using Row = std::vector<float>;

bool finite(const Row& row) {
  return std::all_of(row.begin(), row.end(), [](float x) { return std::isfinite(x); });
}

// Ids, best first: larger value, then lower id.
std::vector<int32_t> ranking(const Row& row) {
  std::vector<int32_t> ids(row.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(),
                   [&](int32_t a, int32_t b) { return row[size_t(a)] > row[size_t(b)]; });
  return ids;
}

void edit(Row& row, const SampleRow& params, const SampleBatch& batch) {
  for (int32_t i = 0; i < params.num_edits; ++i) {
    const SampleEdit& e = batch.edits[params.first_edit + i];
    float logit = row[size_t(e.id)] + e.bias;
    if (e.seen != 0) {
      const auto count = float(e.seen & ~kSeen);
      logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
      logit -= params.frequency_penalty * count;
      if (count > 0) logit -= params.presence_penalty;
    }
    row[size_t(e.id)] = logit;
  }
  if (params.mask < 0) return;
  const uint32_t* mask = batch.masks + params.mask * int64_t((row.size() + 31) / 32);
  for (size_t id = 0; id < row.size(); ++id)
    if (!(mask[id / 32] >> (id % 32) & 1u)) row[id] = -std::numeric_limits<float>::infinity();
}

int32_t draw(const Row& row, const SampleRow& params) {
  const std::vector<int32_t> best = ranking(row);
  const float max = row[size_t(best[0])];
  std::vector<double> weights(row.size());
  for (size_t id = 0; id < row.size(); ++id) {
    const float e = sampling_exp((row[id] - max) / params.temperature);
    weights[id] = e < params.min_p ? 0.0 : double(weight_on_grid(e));
  }
  const auto keep = [&](size_t count) {
    for (size_t rank = count; rank < best.size(); ++rank) weights[size_t(best[rank])] = 0;
    return std::accumulate(weights.begin(), weights.end(), 0.0);  // exact
  };
  double total = keep(params.top_k > 0 ? std::min(size_t(params.top_k), row.size()) : row.size());
  if (params.top_p < 1) {
    const double wanted = params.top_p * total;
    double mass = 0;
    size_t count = 0;
    while (count < best.size() && (count == 0 || mass < wanted)) mass += weights[size_t(best[count++])];
    total = keep(count);
  }
  const double target =
      params.uniform * total;  // below the total: no product with a number below 1 rounds up
  double mass = 0;
  for (size_t id = 0; id < row.size(); ++id) {
    mass += weights[id];
    if (mass > target) return int32_t(id);
  }
  return best[0];
}

SampledRow sample_row(const Row& raw, const SampleRow& params, const SampleBatch& batch, SampledTop* top) {
  SampledRow out;
  if (!finite(raw)) return out;
  out.max = *std::max_element(raw.begin(), raw.end());
  if (params.num_logprobs >= 0) {
    for (const float x : raw) out.total += double(sampling_exp(x - out.max));
    if (params.num_logprobs > 0) {
      const std::vector<int32_t> best = ranking(raw);
      for (size_t i = 0; i < std::min(size_t(params.num_logprobs), best.size()); ++i)
        top[i] = {best[i], raw[size_t(best[i])]};
    }
  }
  Row row = raw;
  edit(row, params, batch);
  const auto best = std::max_element(row.begin(), row.end());  // the first of equals
  if (!std::isfinite(*best)) return out;
  out.token = params.greedy ? int32_t(best - row.begin()) : draw(row, params);
  out.logit = raw[size_t(out.token)];
  return out;
}

}  // namespace

void ReferenceOps::do_sample(const SampleBatch& batch, Tensor logits) {
  for (int64_t s = 0; s < batch.num_rows; ++s) {
    const float* row = logits.row<const float>(s);
    batch.sampled[s] = sample_row(Row(row, row + logits.size(1)), batch.rows[s], batch,
                                  batch.top ? batch.top + s * kMaxTopLogprobs : nullptr);
    if (batch.next_ids) batch.next_ids[s] = batch.sampled[s].token;
  }
}

}  // namespace llama4rt
