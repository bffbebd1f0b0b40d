#include "runtime/device_sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/checked_math.h"
#include "runtime/philox.h"

namespace llama4rt {

DeviceSampler::DeviceSampler(Backend& backend, int64_t vocab_size)
    : backend_(backend), vocab_size_(vocab_size), place_(size_t(vocab_size)) {}
DeviceSampler::~DeviceSampler() {
  if (memory_) backend_.deallocate(memory_, capacity_);
}

void DeviceSampler::clear() {
  rows_.clear();
  edits_.clear();
  masks_.clear();
}

bool DeviceSampler::add(const SampleRequest& request) {
  const SamplingParams& p = *request.params;
  SampleRow row;
  row.uniform = philox_uniform(request.seed, request.index, request.tokens.size());
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
  const bool possible = add_edits(request);
  row.num_edits = int32_t(edits_.size()) - row.first_edit;
  for (int32_t i = 0; i < row.num_edits; ++i) place_[size_t(edits_[size_t(row.first_edit + i)].id)] = 0;
  if (!possible) {
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

bool DeviceSampler::add_edits(const SampleRequest& request) {
  const SamplingParams& p = *request.params;
  for (const auto& [id, bias] : p.logit_bias) {
    if (place_[size_t(id)] != 0) return false;
    edit_of(int32_t(id)).bias = float(bias);
  }
  if (int64_t(request.tokens.size()) - request.num_prompt < p.min_tokens)
    for (const int32_t id : request.end_tokens) edit_of(id).bias = -std::numeric_limits<float>::infinity();
  const bool repetition = p.repetition_penalty != 1;
  if (!repetition && p.presence_penalty == 0 && p.frequency_penalty == 0) return true;
  if (repetition)
    for (const int32_t id : request.tokens.first(size_t(request.num_prompt))) edit_of(id).seen |= kSeen;
  for (const int32_t id : request.tokens.subspan(size_t(request.num_prompt))) {
    uint32_t& seen = edit_of(id).seen;
    seen = (seen | kSeen) + 1;
  }
  return true;
}

void DeviceSampler::reserve(size_t bytes) {
  if (bytes <= capacity_) return;
  if (memory_) backend_.deallocate(memory_, capacity_);
  memory_ = nullptr;
  capacity_ = round_up(bytes + bytes / 2, size_t(4096));
  memory_ = static_cast<char*>(backend_.allocate(capacity_));
}

std::vector<SampledToken> DeviceSampler::run(Tensor logits) {
  auto next = [end = size_t(0)](size_t bytes) mutable {
    const size_t begin = end;
    end += round_up(bytes, size_t(64));
    return begin;
  };
  const size_t count = rows_.size();
  const size_t rows_at = next(count * sizeof(SampleRow)), edits_at = next(edits_.size() * sizeof(SampleEdit)),
               masks_at = next(masks_.size() * sizeof(uint32_t)),
               sampled_at = next(count * sizeof(SampledRow)),
               top_at = next(count * kMaxTopLogprobs * sizeof(SampledTop)), end = next(0);
  reserve(end);
  staged_.resize(sampled_at);
  const auto stage = [&](size_t at, const auto& values) {
    if (!values.empty()) std::memcpy(&staged_[at], values.data(), values.size() * sizeof(values[0]));
  };
  stage(rows_at, rows_);
  stage(edits_at, edits_);
  stage(masks_at, masks_);
  backend_.copy_to_device(memory_, staged_.data(), staged_.size());

  SampleBatch batch;
  batch.num_rows = int64_t(count);
  batch.rows = reinterpret_cast<const SampleRow*>(memory_ + rows_at);
  batch.edits = reinterpret_cast<SampleEdit*>(memory_ + edits_at);
  batch.masks = reinterpret_cast<const uint32_t*>(memory_ + masks_at);
  batch.sampled = reinterpret_cast<SampledRow*>(memory_ + sampled_at);
  batch.top = reinterpret_cast<SampledTop*>(memory_ + top_at);
  batch.all_plain = std::all_of(rows_.begin(), rows_.end(), [](const SampleRow& r) {
    return r.greedy != 0 && r.num_edits == 0 && r.mask < 0 && r.num_logprobs < 0;
  });
  backend_.sample(batch, logits);

  sampled_.resize(count);
  backend_.copy_to_host(sampled_.data(), batch.sampled, count * sizeof(SampledRow));
  const bool any_top =
      std::any_of(rows_.begin(), rows_.end(), [](const SampleRow& r) { return r.num_logprobs > 0; });
  if (any_top) {
    top_.resize(count * kMaxTopLogprobs);
    backend_.copy_to_host(top_.data(), batch.top, top_.size() * sizeof(SampledTop));
  }
  std::vector<SampledToken> tokens(count);
  for (size_t i = 0; i < count; ++i) {
    const SampledRow& from = sampled_[i];
    tokens[i].token = from.token;
    if (rows_[i].num_logprobs < 0 || from.token < 0) continue;
    const double log_sum = double(from.max) + std::log(from.total);
    tokens[i].logprobs.logprob = float(double(from.logit) - log_sum);
    const int64_t best = std::min<int64_t>(rows_[i].num_logprobs, vocab_size_);
    for (int64_t n = 0; n < best; ++n) {
      const SampledTop& t = top_[i * kMaxTopLogprobs + size_t(n)];
      tokens[i].logprobs.top.emplace_back(t.id, float(double(t.logit) - log_sum));
    }
  }
  return tokens;
}

}  // namespace llama4rt
