// Drives an Engine to the end of its work and collects what every sequence got.
#pragma once

#include <map>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "runtime/engine/engine.h"
#include "test.h"

namespace llama4rt::test {

struct Output {
  std::vector<int32_t> tokens;
  std::vector<TokenLogprobs> logprobs;
  std::string finish_reason, error;
  int32_t stop_token_id = -1;
  int64_t cached_tokens = 0;
  std::optional<std::vector<TokenLogprobs>> prompt_logprobs;
  std::vector<float> logits;
};
using Outputs = std::map<std::pair<uint64_t, int>, Output>;

inline void collect(Outputs& outputs, std::vector<TokenEvent> events) {
  for (TokenEvent& e : events) {
    const bool first = !outputs.contains({e.request_id, e.index});
    Output& o = outputs[{e.request_id, e.index}];
    CHECK(o.finish_reason.empty());  // nothing comes after the end
    if (first) o.cached_tokens = e.cached_tokens;
    for (OutputToken& token : e.tokens) {
      o.tokens.push_back(token.id);
      o.logprobs.push_back(std::move(token.logprobs));
    }
    if (e.prompt_logprobs) {
      CHECK(first);
      o.prompt_logprobs = std::move(e.prompt_logprobs);
    }
    if (e.logits) o.logits.insert(o.logits.end(), e.logits->values.begin(), e.logits->values.end());
    o.finish_reason = e.finish_reason;
    o.error = e.error;
    o.stop_token_id = e.stop_token_id;
  }
}

inline void check_all_blocks_free(const Engine& engine) {
  const EngineStats stats = engine.stats();
  CHECK_EQ(stats.global.used, 0);
  CHECK_EQ(stats.local.used, 0);
  CHECK_EQ(stats.global.free, stats.global.total);
  CHECK_EQ(stats.scheduler.running + stats.scheduler.waiting, 0);
}

inline Outputs run_all(Engine& engine, const std::vector<Request>& requests) {
  for (const Request& r : requests) engine.submit(r);
  Outputs outputs;
  while (engine.has_work()) collect(outputs, engine.step());
  check_all_blocks_free(engine);
  return outputs;
}

inline Request greedy(std::vector<int64_t> prompt, int64_t max_tokens = 12) {
  Request r;
  r.prompt_token_ids = std::move(prompt);
  r.sampling.temperature = 0;
  r.max_tokens = max_tokens;
  r.ignore_eos = true;
  return r;
}

inline std::vector<int64_t> random_prompt(std::mt19937& random, size_t length) {
  std::vector<int64_t> prompt(length);
  for (int64_t& id : prompt) id = 3 + int64_t(random() % 90);
  return prompt;
}

inline std::vector<std::vector<int32_t>> tokens_of(const Outputs& outputs) {
  std::vector<std::vector<int32_t>> tokens;
  for (const auto& [key, output] : outputs) tokens.push_back(output.tokens);
  return tokens;
}

inline EngineOptions small_options() {
  EngineOptions o;
  o.num_threads = 2;
  o.kv_cache_bytes = 4 << 20;
  o.kv_cache_dtype = "bf16";
  return o;
}

// Bytes of one block of both groups of the tiny model: 4 layers, 2 sides, 2 heads of 16, bf16.
inline constexpr int64_t kTinyBlockBytes = 16 * 4 * 2 * 2 * 16 * 2;

}  // namespace llama4rt::test
