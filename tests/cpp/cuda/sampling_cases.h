// Batches of rows for the tests of sampling: every parameter, many equal logits, bad rows.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "cuda/device_rows.h"
#include "ops/ops.h"
#include "ops/sampling.h"

namespace llama4rt::test {

struct SamplingCase {
  Matrix logits;  // [S, V]
  std::vector<SampleRow> rows;
  std::vector<SampleEdit> edits;
  std::vector<uint32_t> masks;

  SamplingCase(int64_t count, int64_t size) : logits(count, size), rows(static_cast<size_t>(count)) {}

  bool all_plain() const {
    return std::all_of(rows.begin(), rows.end(), [](const SampleRow& r) {
      return r.greedy != 0 && r.num_edits == 0 && r.mask < 0 && r.num_logprobs < 0;
    });
  }
};

// Logits of one row: smooth, or coarse with many equals and zeros of both signs.
inline void fill_logits(Rng& rng, float* row, int64_t size, float spread, bool coarse) {
  for (int64_t j = 0; j < size; ++j) {
    const float x = spread * rng.normal();
    row[j] = coarse ? std::round(x) * 0.5f : x;
  }
}

inline void add_edits(Rng& rng, SamplingCase& c, SampleRow& row, int64_t size) {
  row.first_edit = int32_t(c.edits.size());
  row.repetition_penalty = rng.uniform(0.5f, 2);
  row.presence_penalty = rng.uniform(-2, 2);
  row.frequency_penalty = rng.uniform(-1, 1);
  for (int64_t id = rng.below(3); id < size; id += 1 + rng.below(size / 20 + 2)) {
    SampleEdit e{.id = int32_t(id)};
    if (rng.below(2) == 0) e.bias = rng.uniform(-4, 4);
    if (rng.below(10) == 0) e.bias = -std::numeric_limits<float>::infinity();
    if (rng.below(2) == 0) e.seen = kSeen | uint32_t(rng.below(4));
    c.edits.push_back(e);
  }
  row.num_edits = int32_t(c.edits.size()) - row.first_edit;
}

inline void add_mask(Rng& rng, SamplingCase& c, SampleRow& row, int64_t size) {
  const int64_t words = (size + 31) / 32;
  row.mask = int32_t(int64_t(c.masks.size()) / words);
  const bool nothing = rng.below(12) == 0;
  for (int64_t i = 0; i < words; ++i) c.masks.push_back(nothing ? 0 : uint32_t(rng.bits()));
}

inline SamplingCase random_sampling_case(Rng& rng, int64_t count, int64_t size) {
  SamplingCase c(count, size);
  for (int64_t i = 0; i < count; ++i) {
    const auto sometimes = [&](int64_t n) { return rng.below(n) == 0; };
    fill_logits(rng, c.logits.row(i), size, rng.uniform(0.1f, 6), sometimes(2));
    if (sometimes(10)) c.logits.row(i)[rng.below(size)] = std::nanf("");
    if (sometimes(10)) c.logits.row(i)[rng.below(size)] = std::numeric_limits<float>::infinity();
    if (sometimes(10)) c.logits.row(i)[rng.below(size)] = -std::numeric_limits<float>::infinity();
    SampleRow& row = c.rows[size_t(i)];
    row.uniform = sometimes(10) ? 0.0 : sometimes(10) ? 1 - 0x1p-53 : double(rng.bits() >> 11) * 0x1p-53;
    row.greedy = sometimes(4);
    row.temperature = rng.uniform(0.1f, 2);
    if (sometimes(2)) row.top_k = int32_t(1 + rng.below(sometimes(2) ? 3 : size));
    if (row.top_k >= size) row.top_k = 0;
    if (sometimes(2)) row.top_p = double(rng.uniform(0.01f, 1));
    if (sometimes(8)) row.top_p = 1e-9;
    if (sometimes(4)) row.min_p = rng.uniform(0, 0.3f);
    if (sometimes(3)) row.num_logprobs = int32_t(rng.below(kMaxTopLogprobs + 1));
    if (sometimes(2)) add_edits(rng, c, row, size);
    if (sometimes(4)) add_mask(rng, c, row, size);
  }
  return c;
}

struct Sampled {
  std::vector<SampledRow> rows;
  std::vector<SampledTop> top;
};

// Runs `sample(batch, logits)` with everything in device memory and outputs that hold nonsense before.
template <class Sample>
Sampled sample_on_device(cuda::Stream& stream, const SamplingCase& c, bool aligned, const Sample& sample) {
  const DeviceRows logits(stream, c.logits, aligned);
  const DeviceVector<SampleRow> rows(stream, c.rows);
  const DeviceVector<SampleEdit> edits(stream, c.edits);
  const DeviceVector<uint32_t> masks(stream, c.masks);
  SampledRow nonsense;
  nonsense.token = 0x7fbadbad;
  nonsense.total = nonsense.logit = nonsense.max = std::nanf("");
  const DeviceVector<SampledRow> sampled(stream, std::vector<SampledRow>(c.rows.size(), nonsense));
  const DeviceVector<SampledTop> top(stream, std::vector<SampledTop>(c.rows.size() * kMaxTopLogprobs));
  SampleBatch batch;
  batch.num_rows = int64_t(c.rows.size());
  batch.rows = static_cast<const SampleRow*>(rows.data());
  batch.edits = static_cast<SampleEdit*>(edits.data());
  batch.masks = static_cast<const uint32_t*>(masks.data());
  batch.sampled = static_cast<SampledRow*>(sampled.data());
  batch.top = static_cast<SampledTop*>(top.data());
  batch.all_plain = c.all_plain();
  sample(batch, logits.view());
  return {sampled.fetch(stream), top.fetch(stream)};
}

// The same by ops that work on host memory.
inline Sampled sample_on_host(Ops& ops, SamplingCase c) {
  Sampled out{std::vector<SampledRow>(c.rows.size()),
              std::vector<SampledTop>(c.rows.size() * kMaxTopLogprobs)};
  SampleBatch batch;
  batch.num_rows = int64_t(c.rows.size());
  batch.rows = c.rows.data();
  batch.edits = c.edits.data();
  batch.masks = c.masks.data();
  batch.sampled = out.rows.data();
  batch.top = out.top.data();
  ops.sample(batch, c.logits.view());
  return out;
}

// Everything equal but the sums of exponentials, which only nearly are. Empty, or what differs.
inline std::string difference(const SamplingCase& c, const Sampled& found, const Sampled& expected) {
  for (size_t i = 0; i < c.rows.size(); ++i) {
    const SampledRow &f = found.rows[i], &e = expected.rows[i];
    if (f.token != e.token) return error_text("row ", i, ": token ", f.token, ", expected ", e.token);
    if (e.token < 0) continue;
    if (f.logit != e.logit) return error_text("row ", i, ": logit ", f.logit, ", expected ", e.logit);
    if (c.rows[i].num_logprobs < 0) continue;
    if (f.max != e.max) return error_text("row ", i, ": max ", f.max, ", expected ", e.max);
    if (!(std::abs(f.total - e.total) <= 1e-12 * e.total))
      return error_text("row ", i, ": total ", f.total, ", expected ", e.total);
    const int64_t best = std::min<int64_t>(c.rows[i].num_logprobs, c.logits.columns());
    for (int64_t n = 0; n < best; ++n) {
      const SampledTop &a = found.top[i * kMaxTopLogprobs + size_t(n)],
                       &b = expected.top[i * kMaxTopLogprobs + size_t(n)];
      if (a.id != b.id || a.logit != b.logit)
        return error_text("row ", i, ", best ", n, ": ", a.id, ", expected ", b.id);
    }
  }
  return {};
}

}  // namespace llama4rt::test
