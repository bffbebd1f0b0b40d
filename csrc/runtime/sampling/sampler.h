// Sampler: one row of logits and one request's parameters -> one token, with log probabilities when asked.
// The order is vLLM's: bias, forbidden end tokens and bad words, penalties, mask, temperature, min-p, top-k, top-p;
// then typical-p, which vLLM does not have, last as in transformers. Log
// probabilities are those of the model, before any of it. The random number depends on (seed, sequence index,
// position) only, so a result depends on nothing else in the batch. Stopping is the engine's business.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/sampling/row_math.h"
#include "runtime/sequences/request.h"

namespace llama4rt {

// Below this a distribution is its maximum for every practical purpose, and dividing by it would overflow.
inline constexpr double kGreedyTemperature = 1e-5;

// Whether `output` ends with all tokens of `word` but the last, which then may not come.
bool completes_bad_word(std::span<const int32_t> output, const std::vector<int64_t>& word);

struct SampleRequest {
  const SamplingParams* params = nullptr;
  std::span<const int32_t> tokens;  // prompt and output so far
  int64_t num_unknown = 0;          // tokens after them that are being chosen; only DeviceSampler takes any
  int64_t num_prompt = 0;
  std::span<const uint32_t> allowed;    // bit i % 32 of word i / 32: token i may come; empty: all may
  std::span<const int32_t> end_tokens;  // forbidden while the output is shorter than min_tokens
  uint64_t seed = 0;
  uint32_t index = 0;  // which of the n

  int64_t position() const { return int64_t(tokens.size()) + num_unknown; }  // being sampled
};

struct SampledToken {
  int32_t token = -1;  // -1: the row holds NaN or infinity, nothing can be chosen
  TokenLogprobs logprobs;
};

// Holds scratch memory only; one per thread.
class Sampler {
 public:
  // row: [V], overwritten.
  SampledToken sample(std::span<float> row, const SampleRequest& request);

  // The model's log probability of `token` and the `top` best tokens; false when the row holds NaN or
  // infinity.
  bool logprobs(TokenLogprobs& out, std::span<const float> row, int32_t token, int64_t top);

 private:
  bool edit(std::span<float> row, const SampleRequest& request);
  static void forbid(std::span<float> row, std::span<const uint32_t> allowed);
  void penalise(std::span<float> row, const SampleRequest& request);
  void set(std::span<float> row, int32_t id, float value);
  float raw_logit(std::span<const float> row, int32_t id) const;
  int32_t draw(std::span<const float> row, const SamplingParams& params, double uniform);
  int32_t draw_by_id(double total, double uniform) const;
  double keep_typical(std::span<const float> row, const SamplingParams& params, double total);
  std::pair<int32_t, float> last_kept(std::span<const float> row, const SamplingParams& params,
                                      double total) const;

  RowView view_;
  std::vector<std::pair<int32_t, float>> edits_;  // (id, value before), in order of editing
  std::vector<float> weights_;                    // [V]
  std::vector<double> block_sums_;
  std::vector<uint32_t> seen_;  // [V] see penalise(); zero between calls
};

}  // namespace llama4rt
