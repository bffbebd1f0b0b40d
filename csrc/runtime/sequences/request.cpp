#include "runtime/sequences/request.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <vector>

#include "base/error.h"

namespace llama4rt {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int64_t kNoLimit = std::numeric_limits<int32_t>::max();

// The limits table: every number a caller can set, what it may be, in one place.
struct IntegerLimit {
  const char* field;
  int64_t minimum;
  int64_t maximum;
};
constexpr IntegerLimit kN{"n", 1, 16};
constexpr IntegerLimit kMaxTokens{"max_tokens", 1, kNoLimit};
constexpr IntegerLimit kMinTokens{"min_tokens", 0, kNoLimit};
constexpr IntegerLimit kTopK{"top_k", 0, kNoLimit};
constexpr IntegerLimit kLogprobs{"logprobs", -1, 20};
constexpr IntegerLimit kPromptLogprobs{"prompt_logprobs", -1, 20};
constexpr size_t kMaxLogitBias = 4096;
constexpr size_t kMaxStopTokens = 1024;
constexpr size_t kMaxDigestBytes = 64;
constexpr size_t kMaxBadWords = 1024;
constexpr size_t kMaxBadWordTokens = 256;

struct NumberLimit {
  const char* field;
  double minimum;
  double maximum;
  bool minimum_excluded;
};
constexpr NumberLimit kTemperature{"temperature", 0, 1e4, false};
constexpr NumberLimit kTopP{"top_p", 0, 1, true};
constexpr NumberLimit kMinP{"min_p", 0, 1, false};
constexpr NumberLimit kTypicalP{"typical_p", 0, 1, true};
constexpr NumberLimit kRepetitionPenalty{"repetition_penalty", 0, 1e4, true};
constexpr NumberLimit kPresencePenalty{"presence_penalty", -1e4, 1e4, false};
constexpr NumberLimit kFrequencyPenalty{"frequency_penalty", -1e4, 1e4, false};
constexpr NumberLimit kLogitBias{"logit_bias", -1e4, 1e4, false};

void check(const IntegerLimit& limit, int64_t value) {
  LLAMA4RT_CHECK(kRequest, value >= limit.minimum && value <= limit.maximum, limit.field, " is ", value,
                 "; it must be in ", limit.minimum, "..", limit.maximum);
}

void check(const NumberLimit& limit, double value) {
  const bool inside = limit.minimum_excluded ? value > limit.minimum : value >= limit.minimum;
  LLAMA4RT_CHECK(kRequest, std::abs(value) < kInfinity && inside && value <= limit.maximum, limit.field,
                 " is ", value, "; it must be in ", limit.minimum_excluded ? "(" : "[", limit.minimum, ", ",
                 limit.maximum, "]");
}

void check_token_id(const char* field, size_t position, int64_t id, int64_t vocab_size) {
  LLAMA4RT_CHECK(kRequest, id >= 0 && id < vocab_size, field, "[", position, "] is ", id,
                 "; token ids of this model are 0..", vocab_size - 1);
}

// Every patch token takes one row of the pictures' embeddings: the counts must be equal.
void check_images(const Request& request, const std::optional<VisionConfig>& vision) {
  if (!vision) {
    LLAMA4RT_CHECK(kRequest, request.images.empty(), "the request has ", request.images.size(),
                   " images, but this engine file holds no vision tower");
    return;
  }
  const auto side = int64_t(vision->image_size);
  const int64_t tile_bytes = side * side * 3;
  int64_t tiles = 0;
  for (size_t i = 0; i < request.images.size(); ++i) {
    const ImageInput& image = *request.images[i];
    const auto bytes = int64_t(image.tiles.size());
    LLAMA4RT_CHECK(kRequest, bytes > 0 && bytes % tile_bytes == 0, "images[", i, "] has ", bytes,
                   " bytes of tiles; it must be one or more tiles of ", side, " x ", side, " x 3");
    LLAMA4RT_CHECK(kRequest, !image.digest.empty() && image.digest.size() <= kMaxDigestBytes, "images[", i,
                   "] has a digest of ", image.digest.size(), " bytes; it must have 1..", kMaxDigestBytes);
    tiles += bytes / tile_bytes;
  }
  const auto patches = int64_t(
      std::count(request.prompt_token_ids.begin(), request.prompt_token_ids.end(), vision->patch_token_id));
  LLAMA4RT_CHECK(kRequest, patches == tiles * vision->tokens_per_tile(), "the prompt has ", patches,
                 " patch tokens (id ", vision->patch_token_id, "), but its ", request.images.size(),
                 " images make ", tiles * vision->tokens_per_tile(), ": ", tiles, " tiles of ",
                 vision->tokens_per_tile());
}

// Whatever the output so far, one token must remain that may come.
void check_forbidden(const Request& request, const RequestLimits& limits) {
  const SamplingParams& s = request.sampling;
  const int64_t vocab_size = limits.vocab_size;
  for (size_t i = 0; i < s.allowed_token_ids.size(); ++i)
    check_token_id("allowed_token_ids", i, s.allowed_token_ids[i], vocab_size);
  LLAMA4RT_CHECK(kRequest, s.bad_words.size() <= kMaxBadWords, "bad_words has ", s.bad_words.size(),
                 " sequences of tokens; at most ", kMaxBadWords, " are allowed");
  std::vector<int64_t> forbidden;
  if (s.min_tokens > 0) {
    forbidden = request.stop_token_ids;
    if (!request.ignore_eos)
      forbidden.insert(forbidden.end(), limits.end_tokens.begin(), limits.end_tokens.end());
  }
  for (const auto& word : s.bad_words) {
    LLAMA4RT_CHECK(kRequest, !word.empty() && word.size() <= kMaxBadWordTokens,
                   "a sequence of bad_words has ", word.size(), " tokens; it must have 1..",
                   kMaxBadWordTokens);
    for (size_t i = 0; i < word.size(); ++i) check_token_id("bad_words", i, word[i], vocab_size);
    forbidden.push_back(word.back());
  }
  std::sort(forbidden.begin(), forbidden.end());
  forbidden.erase(std::unique(forbidden.begin(), forbidden.end()), forbidden.end());
  const auto may_come = [&](int64_t id) {
    return !std::binary_search(forbidden.begin(), forbidden.end(), id);
  };
  const auto& allowed = s.allowed_token_ids;
  LLAMA4RT_CHECK(kRequest,
                 allowed.empty() ? int64_t(forbidden.size()) < vocab_size
                                 : std::any_of(allowed.begin(), allowed.end(), may_come),
                 "allowed_token_ids, bad_words and min_tokens leave no token that may come");
}

}  // namespace

void check_request(const Request& request, const RequestLimits& limits) {
  const SamplingParams& s = request.sampling;
  const auto length = int64_t(request.prompt_token_ids.size());
  LLAMA4RT_CHECK(kRequest, length > 0, "prompt_token_ids is empty; a prompt needs at least one token");
  // A request that generates needs room for one token after its prompt.
  const int64_t longest = limits.max_model_len - (request.generates() ? 1 : 0);
  LLAMA4RT_CHECK(kRequest, length <= longest, "the prompt has ", length, " tokens, but max_model_len is ",
                 limits.max_model_len, ": it may have ", longest, " at most");
  for (size_t i = 0; i < request.prompt_token_ids.size(); ++i)
    check_token_id("prompt_token_ids", i, request.prompt_token_ids[i], limits.vocab_size);

  LLAMA4RT_CHECK(kRequest, request.continued_tokens >= 0 && request.continued_tokens < length,
                 "continued_tokens is ", request.continued_tokens, "; it must be in 0..", length - 1,
                 ", less than the prompt's ", length, " tokens");
  LLAMA4RT_CHECK(kRequest, request.continued_tokens == 0 || (request.masks.empty() && request.generates()),
                 "continued_tokens cannot go with structured output, nor with numbers of the prompt alone");
  check_images(request, limits.vision);

  check(kN, request.n);
  LLAMA4RT_CHECK(kRequest, request.masks.empty() || int64_t(request.masks.size()) == request.n, "there are ",
                 request.masks.size(), " masks and n is ", request.n, "; each output needs its own");
  for (const auto& mask : request.masks)
    LLAMA4RT_CHECK(kRequest, mask && mask->vocab_size() == limits.vocab_size, "a mask is for ",
                   mask ? mask->vocab_size() : 0, " tokens; this model has ", limits.vocab_size);
  check(kMaxTokens, request.max_tokens);
  check(kMinTokens, s.min_tokens);
  LLAMA4RT_CHECK(kRequest, s.min_tokens <= request.max_tokens, "min_tokens is ", s.min_tokens,
                 "; it may not exceed max_tokens, which is ", request.max_tokens);
  check(kTemperature, s.temperature);
  check(kTopK, s.top_k);
  check(kTopP, s.top_p);
  check(kMinP, s.min_p);
  check(kTypicalP, s.typical_p);
  check(kRepetitionPenalty, s.repetition_penalty);
  check(kPresencePenalty, s.presence_penalty);
  check(kFrequencyPenalty, s.frequency_penalty);
  check(kLogprobs, s.logprobs);
  check(kPromptLogprobs, request.prompt_logprobs);
  LLAMA4RT_CHECK(kRequest, request.generates() || request.n == 1, "n is ", request.n,
                 "; it must be 1 with return_logits or score_from");
  LLAMA4RT_CHECK(kRequest, request.score_from == 0 || !request.return_logits,
                 "score_from cannot go with return_logits: one asks for numbers, the other for all logits");
  LLAMA4RT_CHECK(kRequest, request.score_from == 0 || (request.score_from > 0 && request.score_from < length),
                 "score_from is ", request.score_from, "; it must be in 1..", length - 1,
                 ", as the first of the prompt's ", length, " tokens follows none");

  LLAMA4RT_CHECK(kRequest, s.logit_bias.size() <= kMaxLogitBias, "logit_bias has ", s.logit_bias.size(),
                 " entries; at most ", kMaxLogitBias, " are allowed");
  std::vector<int64_t> ids;
  for (const auto& [id, bias] : s.logit_bias) {
    LLAMA4RT_CHECK(kRequest, id >= 0 && id < limits.vocab_size, "logit_bias names token ", id,
                   "; token ids of this model are 0..", limits.vocab_size - 1);
    check(kLogitBias, bias);
    ids.push_back(id);
  }
  std::sort(ids.begin(), ids.end());
  const auto twice = std::adjacent_find(ids.begin(), ids.end());
  LLAMA4RT_CHECK(kRequest, twice == ids.end(), "logit_bias names token ", *twice,
                 " more than once; give the sum of its biases");
  LLAMA4RT_CHECK(kRequest, request.masks.empty() || s.allowed_token_ids.empty(),
                 "allowed_token_ids cannot go with structured output: both say which tokens may come");
  LLAMA4RT_CHECK(kRequest, request.stop_token_ids.size() <= kMaxStopTokens, "stop_token_ids has ",
                 request.stop_token_ids.size(), " entries; at most ", kMaxStopTokens, " are allowed");
  for (size_t i = 0; i < request.stop_token_ids.size(); ++i)
    check_token_id("stop_token_ids", i, request.stop_token_ids[i], limits.vocab_size);
  for (size_t i = 0; i < request.prediction.size(); ++i)
    check_token_id("prediction", i, request.prediction[i], limits.vocab_size);
  check_forbidden(request, limits);
}

}  // namespace llama4rt
