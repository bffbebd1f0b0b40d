// Requests that score a prompt: the same bits as prompt log probabilities, whatever batch, chunks, memory and
// prefix cache do, and nothing is generated.
#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "model/tiny_engine.h"
#include "runtime/drive_engine.h"
#include "runtime/engine/engine.h"
#include "test.h"

namespace llama4rt {
namespace {

using namespace test;

Request scored(std::vector<int64_t> prompt, int64_t from, int64_t top = 2) {
  Request r = greedy(std::move(prompt));
  r.score_from = from;
  r.prompt_logprobs = top;
  return r;
}

// What a request was told, joined; checks that chunks follow each other.
struct Scores {
  std::vector<float> logprobs;
  std::vector<std::pair<int32_t, float>> top;
  int64_t cached_tokens = 0, events = 0;
  std::string finish_reason, error;
};

std::vector<Scores> score_all(Engine& engine, const std::vector<Request>& requests) {
  std::vector<uint64_t> ids;
  for (const Request& r : requests) ids.push_back(engine.submit(r));
  std::vector<Scores> out(requests.size());
  while (engine.has_work())
    for (const TokenEvent& e : engine.step()) {
      const auto i = size_t(std::find(ids.begin(), ids.end(), e.request_id) - ids.begin());
      Scores& s = out[i];
      CHECK(e.tokens.empty() && !e.prompt_logprobs && !e.logits);
      CHECK(s.finish_reason.empty());
      if (e.scores) {
        CHECK_EQ(e.scores->first, requests[i].score_from + int64_t(s.logprobs.size()));
        CHECK(!e.scores->logprobs.empty());
        CHECK_EQ(e.scores->top.size(), e.scores->logprobs.size() * size_t(e.scores->num_top));
        s.logprobs.insert(s.logprobs.end(), e.scores->logprobs.begin(), e.scores->logprobs.end());
        s.top.insert(s.top.end(), e.scores->top.begin(), e.scores->top.end());
        ++s.events;
      }
      s.cached_tokens = std::max(s.cached_tokens, e.cached_tokens);
      s.finish_reason = e.finish_reason;
      s.error = e.error;
    }
  check_all_blocks_free(engine);
  return out;
}

TEST(scores_are_prompt_logprobs_in_every_circumstance) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e");
  std::mt19937 random(5);
  const std::vector<int64_t> common = random_prompt(random, 90);
  std::vector<Request> requests;
  std::vector<std::vector<TokenLogprobs>> expected;
  Engine alone(dir / "m.l4e", small_options());
  for (const size_t length : {2, 17, 64, 65, 129, 200}) {
    std::vector<int64_t> prompt(common.begin(), common.begin() + int64_t(std::min<size_t>(length / 2, 90)));
    for (const int64_t id : random_prompt(random, length - prompt.size())) prompt.push_back(id);
    Request whole = greedy(prompt, 1);
    whole.prompt_logprobs = 2;
    for (const int64_t from : {int64_t(1), int64_t(length) / 2 + 1, int64_t(length) - 1}) {
      if (from < 1 || from >= int64_t(length)) continue;
      requests.push_back(scored(prompt, from));
      expected.push_back(*run_all(alone, {whole}).begin()->second.prompt_logprobs);
      expected.back().erase(expected.back().begin(), expected.back().begin() + (from - 1));
    }
  }
  for (const int64_t chunk : {0, 1, 7, 33})
    for (const int64_t blocks : {64, 15})  // the few of them make sequences wait for each other
      for (const bool prefix_cache : {true, false}) {
        SCOPE("chunks of ", chunk, ", ", blocks, " blocks, prefix cache ", prefix_cache);
        EngineOptions o = small_options();
        o.max_batched_tokens = chunk;
        o.kv_cache_bytes = blocks * kTinyBlockBytes;
        o.prefix_cache = prefix_cache;
        Engine engine(dir / "m.l4e", o);
        int64_t cached = 0;
        for (int turn = 0; turn < 2; ++turn) {
          const std::vector<Scores> got = score_all(engine, requests);
          for (size_t i = 0; i < requests.size(); ++i) {
            SCOPE("prompt of ", requests[i].prompt_token_ids.size(), " from ", requests[i].score_from);
            CHECK_EQ(got[i].finish_reason, "length");
            CHECK_EQ(got[i].logprobs.size(), expected[i].size());
            for (size_t t = 0; t < expected[i].size() && t < got[i].logprobs.size(); ++t) {
              CHECK_EQ(got[i].logprobs[t], expected[i][t].logprob);
              CHECK(std::equal(expected[i][t].top.begin(), expected[i][t].top.end(),
                               got[i].top.begin() + int64_t(2 * t)));
            }
            CHECK(got[i].cached_tokens < requests[i].score_from);  // the row before the first is computed
            cached += got[i].cached_tokens;
          }
        }
        CHECK_EQ(cached > 0, prefix_cache);
      }
}

TEST(a_long_prompt_is_told_chunk_by_chunk) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e");
  std::mt19937 random(6);
  EngineOptions o = small_options();
  o.max_batched_tokens = 32;
  Engine engine(dir / "m.l4e", o);
  const Scores scores = score_all(engine, {scored(random_prompt(random, 320), 100, 0)})[0];
  CHECK_EQ(scores.logprobs.size(), size_t(220));
  CHECK_EQ(scores.events, 7);  // of ten chunks, those before token 100 say nothing
  CHECK(scores.top.empty());
  CHECK_EQ(engine.stats().generated_tokens, 0);
}

TEST(a_prompt_may_fill_the_model) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e");
  std::mt19937 random(7);
  EngineOptions o = small_options();
  o.max_model_len = 64;
  Engine engine(dir / "m.l4e", o);
  CHECK_EQ(score_all(engine, {scored(random_prompt(random, 64), 1)})[0].logprobs.size(), size_t(63));
  CHECK_THROWS(kRequest, engine.submit(scored(random_prompt(random, 65), 1)));
}

TEST(all_of_a_small_vocabulary_can_be_asked_for) {
  const TempDir dir;
  TinyEngine spec;
  spec.config.vocab_size = 12;
  write_tiny_engine(dir / "m.l4e", spec);
  Engine engine(dir / "m.l4e", small_options());
  const Scores scores = score_all(engine, {scored({3, 4, 5, 6}, 1, 20)})[0];
  CHECK_EQ(scores.logprobs.size(), size_t(3));
  CHECK_EQ(scores.top.size(), size_t(36));
}

TEST(logits_that_are_not_finite_are_an_error) {
  const TempDir dir;
  TinyEngine spec;
  spec.change = [](const std::string& name, std::vector<float>& values, int64_t) {
    if (name == "norm") values[0] = 3e38f;
    if (name == "lm_head")
      for (float& v : values) v *= 1e4f;
  };
  write_tiny_engine(dir / "m.l4e", spec);
  Engine engine(dir / "m.l4e", small_options());
  const Scores scores = score_all(engine, {scored({3, 4, 5, 6}, 1)})[0];
  CHECK_EQ(scores.finish_reason, "error");
  CHECK(scores.error.find("NaN or infinity") != std::string::npos);
}

TEST(places_outside_the_prompt_are_refused) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e");
  Engine engine(dir / "m.l4e", small_options());
  for (const int64_t from : {-1, 3, 4}) CHECK_THROWS(kRequest, engine.submit(scored({3, 4, 5}, from)));
  Request both = scored({3, 4, 5}, 1), twice = scored({3, 4, 5}, 1);
  both.return_logits = true;
  twice.n = 2;
  CHECK_THROWS(kRequest, engine.submit(both));
  CHECK_THROWS(kRequest, engine.submit(twice));
}

}  // namespace
}  // namespace llama4rt
