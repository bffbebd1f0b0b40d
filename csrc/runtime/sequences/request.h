// What a caller asks (Request) and what it hears back (TokenEvent). Plain data in token ids; text, stop
// strings and chat belong to Python. Engine::submit checks every number against the table in request.cpp.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "format/model_config.h"
#include "runtime/sequences/token_mask.h"

namespace llama4rt {

class Adapter;  // model/adapter.h; only who computes looks into it

struct SamplingParams {
  double temperature = 1;  // 0: greedy
  int64_t top_k = 0;       // 0: off
  double top_p = 1;
  double min_p = 0;
  double typical_p = 1;                                // 1: off
  double repetition_penalty = 1;                       // over prompt and output
  double presence_penalty = 0;                         // over output
  double frequency_penalty = 0;                        // over output
  std::vector<std::pair<int64_t, double>> logit_bias;  // (token id, added to its logit)
  std::vector<int64_t> allowed_token_ids;              // nothing else may come; empty: all may
  // Token sequences that may not come: the last token is forbidden where the output ends with the others.
  std::vector<std::vector<int64_t>> bad_words;
  int64_t min_tokens = 0;  // end tokens are forbidden before this many output tokens
  int64_t logprobs = -1;   // -1: none, 0: the chosen token's, n: and the n best
};

// A picture as the vision tower takes it: cut into tiles by the caller.
struct ImageInput {
  std::string digest;          // names the content: equal digests mean equal tiles
  std::vector<uint8_t> tiles;  // [num_tiles, S, S, 3] rows, columns, RGB
};

struct Request {
  // 64 bits so that an id outside the vocabulary is reported as it was given.
  std::vector<int64_t> prompt_token_ids;
  // Their tiles, in order, take the places of the prompt's patch tokens.
  std::vector<std::shared_ptr<const ImageInput>> images;
  SamplingParams sampling;
  std::shared_ptr<const Adapter> adapter;  // what changes the model for this request; null: nothing
  // One for each of the n sequences, or none: what may be sampled. The caller fills a mask anew after each
  // token.
  std::vector<std::shared_ptr<TokenMask>> masks;
  int64_t client = 0;  // any number: requests of equal ones wait for each other, those of others take turns
  int64_t n = 1;
  int64_t max_tokens = 16;
  std::optional<int64_t> seed;  // empty: a random one
  // What the output may be like: where it agrees, tokens come faster, if the engine speculates. It changes none.
  std::vector<int64_t> prediction;
  std::vector<int64_t> stop_token_ids;  // beside the model's own end tokens
  bool ignore_eos = false;              // of the model's end tokens only
  int64_t prompt_logprobs = -1;         // -1: none
  bool return_logits = false;           // logits of every prompt token, no generation
  // Not 0: log probabilities of the prompt's tokens from this one on, and no generation. prompt_logprobs says
  // how many of the best tokens are wanted beside each. What lies before may come from the prefix cache.
  int64_t score_from = 0;
  // Benchmarks of random weights only: so many prompt tokens are taken as computed. Their place in the cache
  // is taken and holds whatever it held.
  int64_t assume_computed = 0;
  bool use_prefix_cache = true;
  // The last so many prompt tokens are the output of an earlier request that this one goes on with: penalties,
  // min_tokens and bad words count them as output. max_tokens is of new ones.
  int64_t continued_tokens = 0;
  bool report_progress = false;  // an event for each chunk of the prompt, of index 0

  bool generates() const { return !return_logits && score_from == 0; }
};

struct TokenLogprobs {
  float logprob = 0;                           // of the token itself
  std::vector<std::pair<int32_t, float>> top;  // best first
};

// float32 [rows, columns]
struct LogitRows {
  int64_t rows = 0;
  int64_t columns = 0;
  std::vector<float> values;
};

// Log probabilities of consecutive prompt tokens, each given all before it, and of the best tokens in its place.
struct ScoredTokens {
  int64_t first = 0;                           // place of the first in the prompt
  int64_t num_top = 0;                         // best tokens of each, best first
  std::vector<float> logprobs;                 // [tokens]
  std::vector<std::pair<int32_t, float>> top;  // [tokens, num_top]
};

struct OutputToken {
  int32_t id = -1;
  TokenLogprobs logprobs;
};

// What happened to one sequence of a request in a step.
struct TokenEvent {
  uint64_t request_id = 0;
  int index = 0;                    // which of the n
  std::vector<OutputToken> tokens;  // new ones, in order; none: the event says something else
  // With the first event of index 0, when asked for: entry i is for prompt token i + 1.
  std::optional<std::vector<TokenLogprobs>> prompt_logprobs;
  std::optional<LogitRows> logits;
  std::optional<ScoredTokens> scores;  // of one chunk, in an event that says only this
  int64_t prompt_computed = -1;        // prompt tokens done so far, in an event that says only this
  // Prompt tokens found in the prefix cache; with the sequence's first event, and with every one of progress.
  int64_t cached_tokens = 0;
  int guessed = 0,
      guessed_right = 0;       // tokens that were guessed before they were computed, and those that came
  std::string finish_reason;   // "", "stop", "length", "abort" or "error"
  int32_t stop_token_id = -1;  // the end token that stopped it; it is not part of the output
  std::string error;
  bool not_finite = false;  // the error is that logits held NaN or infinity
};

// What a request must stay inside; known once the engine is open.
struct RequestLimits {
  int64_t vocab_size = 0;
  int64_t max_model_len = 0;
  std::optional<VisionConfig> vision;
  std::vector<int64_t> end_tokens;  // the model's own
};

// Throws kRequest naming the field, its value and what is allowed.
void check_request(const Request& request, const RequestLimits& limits);

}  // namespace llama4rt
