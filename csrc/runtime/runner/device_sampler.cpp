#include "runtime/runner/device_sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "base/checked_math.h"
#include "ops/ops.h"
#include "runtime/sampling/philox.h"

namespace llama4rt {

namespace {
int64_t mask_words(int64_t vocab_size) { return ceil_div(vocab_size, int64_t(32)); }
}  // namespace

DeviceSampler::Places::Places(int64_t vocab_size, int64_t max_rows) {
  const auto next = [this](int64_t count, size_t size) {
    const size_t begin = end;
    end += round_up(size_t(count) * size, size_t(64));
    return begin;
  };
  rows = next(max_rows, sizeof(SampleRow));
  masks = next(max_rows * mask_words(vocab_size), sizeof(uint32_t));
  edits = next(vocab_size, sizeof(SampleEdit));  // no row has more
  sampled = next(max_rows, sizeof(SampledRow));
  top = next(max_rows * kMaxTopLogprobs, sizeof(SampledTop));
}

int64_t DeviceSampler::device_bytes(int64_t vocab_size, int64_t max_rows) {
  return int64_t(Places(vocab_size, max_rows).end);
}

DeviceSampler::DeviceSampler(Device& device, int64_t vocab_size, int64_t max_rows)
    : device_(device),
      vocab_size_(vocab_size),
      max_rows_(max_rows),
      places_(vocab_size, max_rows),
      place_(size_t(vocab_size)) {
  memory_ = static_cast<char*>(device_.allocate(places_.end));
  for (char*& side : staging_) side = static_cast<char*>(device_.allocate_staging(places_.end));
}
DeviceSampler::~DeviceSampler() {
  for (char* const side : staging_) device_.deallocate_staging(side);
  device_.deallocate(memory_, places_.end);
}

void DeviceSampler::clear() {
  rows_.clear();
  edits_.clear();
  masks_.clear();
}

bool DeviceSampler::takes(const SampleRequest& request) { return request.params->typical_p >= 1; }

bool DeviceSampler::add(const SampleRequest& request) {
  if (num_rows() == max_rows_) return false;
  const SamplingParams& p = *request.params;
  SampleRow row;
  row.uniform = philox_uniform(request.seed, request.index, uint64_t(request.position()));
  row.top_p = p.top_p;
  row.temperature = float(p.temperature);
  row.min_p = float(p.min_p);
  row.repetition_penalty = float(p.repetition_penalty);
  row.presence_penalty = float(p.presence_penalty);
  row.frequency_penalty = float(p.frequency_penalty);
  row.greedy = p.temperature < kGreedyTemperature;
  row.top_k = p.top_k < vocab_size_ ? int32_t(p.top_k) : 0;
  row.num_logprobs = int32_t(p.logprobs);
  row.first_edit = int32_t(edits_.size());
  add_edits(request);
  row.num_edits = int32_t(edits_.size()) - row.first_edit;
  for (int32_t i = 0; i < row.num_edits; ++i) place_[size_t(edits_[size_t(row.first_edit + i)].id)] = 0;
  if (int64_t(edits_.size()) > vocab_size_) {
    edits_.resize(size_t(row.first_edit));
    return false;
  }
  if (!request.allowed.empty()) {
    row.mask = int32_t(masks_.size() / request.allowed.size());
    masks_.insert(masks_.end(), request.allowed.begin(), request.allowed.end());
  }
  rows_.push_back(row);
  return true;
}

// The edit of this token in the row being added.
SampleEdit& DeviceSampler::edit_of(int32_t id) {
  int32_t& place = place_[size_t(id)];
  if (place == 0) {
    edits_.push_back({.id = id});
    place = int32_t(edits_.size());
  }
  return edits_[size_t(place - 1)];
}

void DeviceSampler::add_edits(const SampleRequest& request) {
  const SamplingParams& p = *request.params;
  for (const auto& [id, bias] : p.logit_bias) edit_of(int32_t(id)).bias = float(bias);
  if (request.position() - request.num_prompt < p.min_tokens)
    for (const int32_t id : request.end_tokens) edit_of(id).bias = -std::numeric_limits<float>::infinity();
  for (const auto& word : p.bad_words)
    if (completes_bad_word(request.tokens.subspan(size_t(request.num_prompt)), word))
      edit_of(int32_t(word.back())).bias = -std::numeric_limits<float>::infinity();
  const bool repetition = p.repetition_penalty != 1;
  if (!repetition && p.presence_penalty == 0 && p.frequency_penalty == 0) return;
  if (repetition)
    for (const int32_t id : request.tokens.first(size_t(request.num_prompt))) edit_of(id).seen |= kSeen;
  for (const int32_t id : request.tokens.subspan(size_t(request.num_prompt))) {
    uint32_t& seen = edit_of(id).seen;
    seen = (seen | kSeen) + 1;
  }
}

DeviceSampler::Run DeviceSampler::submit(Tensor logits, int32_t* next_ids) {
  const size_t count = rows_.size();
  Run run;
  run.side = std::exchange(side_, 1 - side_);
  char* const staging = staging_[run.side];
  const auto send = [&](size_t at, const auto& values) {
    if (values.empty()) return;
    const size_t bytes = values.size() * sizeof(values[0]);
    std::memcpy(staging + at, values.data(), bytes);
    device_.copy_to_device_async(memory_ + at, staging + at, bytes);
  };
  send(places_.rows, rows_);
  send(places_.edits, edits_);
  send(places_.masks, masks_);

  SampleBatch batch;
  batch.num_rows = int64_t(count);
  batch.rows = reinterpret_cast<const SampleRow*>(memory_ + places_.rows);
  batch.edits = reinterpret_cast<SampleEdit*>(memory_ + places_.edits);
  batch.masks = reinterpret_cast<const uint32_t*>(memory_ + places_.masks);
  batch.sampled = reinterpret_cast<SampledRow*>(memory_ + places_.sampled);
  batch.top = reinterpret_cast<SampledTop*>(memory_ + places_.top);
  batch.next_ids = next_ids;
  batch.all_plain = std::all_of(rows_.begin(), rows_.end(), [](const SampleRow& r) {
    return r.greedy != 0 && r.num_edits == 0 && r.mask < 0 && r.num_logprobs < 0;
  });
  device_.ops().sample(batch, logits);

  const auto fetch = [&](size_t at, size_t bytes) {
    device_.copy_to_host_async(staging + at, memory_ + at, bytes);
  };
  fetch(places_.sampled, count * sizeof(SampledRow));
  for (const SampleRow& row : rows_) run.num_logprobs.push_back(row.num_logprobs);
  if (std::any_of(rows_.begin(), rows_.end(), [](const SampleRow& r) { return r.num_logprobs > 0; }))
    fetch(places_.top, count * kMaxTopLogprobs * sizeof(SampledTop));
  run.mark = device_.mark();
  return run;
}

std::vector<SampledToken> DeviceSampler::collect(const Run& run) {
  device_.wait_for(run.mark);
  const char* const staging = staging_[run.side];
  const auto* const sampled = reinterpret_cast<const SampledRow*>(staging + places_.sampled);
  const auto* const top = reinterpret_cast<const SampledTop*>(staging + places_.top);
  std::vector<SampledToken> tokens(run.num_logprobs.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    const SampledRow& from = sampled[i];
    tokens[i].token = from.token;
    if (run.num_logprobs[i] < 0 || from.token < 0) continue;
    const double log_sum = double(from.max) + std::log(from.total);
    tokens[i].logprobs.logprob = float(double(from.logit) - log_sum);
    const int64_t best = std::min<int64_t>(run.num_logprobs[i], vocab_size_);
    for (int64_t n = 0; n < best; ++n) {
      const SampledTop& t = top[i * kMaxTopLogprobs + size_t(n)];
      tokens[i].logprobs.top.emplace_back(t.id, float(double(t.logit) - log_sum));
    }
  }
  return tokens;
}

}  // namespace llama4rt
