// Masks: what the sampler may choose under one, who waits for whom, and what an engine does with a mask that
// fails.
#include "runtime/sequences/token_mask.h"

#include <algorithm>
#include <random>
#include <thread>

#include "model/tiny_engine.h"
#include "runtime/drive_engine.h"
#include "runtime/sampling/sampler.h"
#include "test.h"

namespace llama4rt {
namespace {

using namespace test;
using std::chrono::milliseconds;

void allow_only(TokenMask& mask, const std::vector<int32_t>& ids) {
  std::fill(mask.bits().begin(), mask.bits().end(), 0u);
  for (const int32_t id : ids) mask.bits()[size_t(id) / 32] |= 1u << (id % 32);
}

TEST(sampler_chooses_the_best_of_what_is_allowed) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, 3);
  for (const size_t size : {size_t(1), size_t(31), size_t(32), size_t(33), size_t(1000), size_t(4097)}) {
    std::vector<float> row(size);
    for (float& x : row) x = normal(random);
    std::vector<int32_t> ids;
    for (size_t i = 0; i < size; ++i)
      if (random() % 7 == 0 || i + 1 == size) ids.push_back(int32_t(i));
    TokenMask mask{int64_t(size)};
    allow_only(mask, ids);
    const auto best = *std::max_element(
        ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return row[size_t(a)] < row[size_t(b)]; });
    Sampler sampler;
    for (int seed = 0; seed < 60; ++seed) {
      SamplingParams params;
      params.temperature = seed == 0 ? 0 : 5;
      params.top_k = seed % 3;
      params.top_p = seed % 2 ? 0.9 : 1;
      params.repetition_penalty = seed % 5 ? 1 : 1.5;
      params.logprobs = 1;
      const std::vector<int32_t> tokens = {0};
      SampleRequest r;
      r.params = &params;
      r.tokens = tokens;
      r.num_prompt = 1;
      r.allowed = mask.bits();
      r.seed = uint64_t(seed);
      std::vector<float> copy = row;
      const SampledToken chosen = sampler.sample(copy, r);
      CHECK(std::find(ids.begin(), ids.end(), chosen.token) != ids.end());
      if (seed == 0) CHECK_EQ(chosen.token, best);
      CHECK(chosen.logprobs.logprob <= 0);  // the model's own, though most of the row is forbidden
    }
  }
}

TEST(nothing_allowed_is_no_token) {
  std::vector<float> row = {1, 2, 3};
  const TokenMask none(3);
  const SamplingParams params;
  const std::vector<int32_t> tokens = {0};
  SampleRequest r;
  r.params = &params;
  r.tokens = tokens;
  r.num_prompt = 1;
  const std::vector<uint32_t> bits = {0};
  r.allowed = bits;
  CHECK_EQ(Sampler().sample(row, r).token, -1);
}

TEST(a_reader_waits_for_the_writer) {
  TokenMask mask(100);
  CHECK(mask.wait(milliseconds(1)).has_value());  // nobody has published
  std::thread writer([&] {
    std::this_thread::sleep_for(milliseconds(5));
    allow_only(mask, {7});
    mask.publish();
  });
  CHECK(!mask.wait(milliseconds(60'000)).has_value());
  writer.join();
  CHECK(!mask.wait(milliseconds(0)).has_value());  // until the sequence grows
  mask.expire();
  CHECK(mask.wait(milliseconds(1)).has_value());
  mask.fail("broken");
  mask.publish();  // too late
  CHECK_EQ(mask.wait(milliseconds(0)).value_or(""), std::string("broken"));
}

TEST(an_engine_obeys_masks_and_ends_what_fails) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e");
  Engine engine(dir / "m.l4e", small_options());
  std::mt19937 random(1);
  const int64_t vocab = engine.config().vocab_size;
  Request masked = greedy(random_prompt(random, 70), 6);
  masked.n = 2;
  for (int i = 0; i < 2; ++i) {
    masked.masks.push_back(std::make_shared<TokenMask>(vocab));
    allow_only(*masked.masks.back(), {5 + i});
    masked.masks.back()->publish();
  }
  const Request plain = greedy(random_prompt(random, 40), 6);
  const auto alone = tokens_of(run_all(engine, {plain}));
  const uint64_t id = engine.submit(masked);
  const uint64_t other = engine.submit(plain);
  Outputs outputs;
  int tokens = 0;
  while (engine.has_work()) {
    std::vector<TokenEvent> events = engine.step();
    for (const TokenEvent& e : events) {
      if (e.request_id != id || e.tokens.empty()) continue;
      TokenMask& mask = *masked.masks[size_t(e.index)];
      if (e.index == 1 && ++tokens == 3)
        mask.fail("the grammar broke");
      else
        mask.publish();
    }
    collect(outputs, std::move(events));
  }
  check_all_blocks_free(engine);
  const std::vector<int32_t> six_fives(6, 5), three_sixes(3, 6);
  const Output &whole = outputs[{id, 0}], &broken = outputs[{id, 1}], &beside = outputs[{other, 0}];
  CHECK(whole.tokens == six_fives);
  CHECK(broken.tokens == three_sixes);
  CHECK_EQ(broken.finish_reason, std::string("error"));
  CHECK_EQ(broken.error, std::string("the grammar broke"));
  CHECK(beside.tokens == alone[0]);

  Request wrong = plain;
  wrong.masks = {std::make_shared<TokenMask>(vocab + 1)};
  CHECK_THROWS(kRequest, engine.submit(wrong));
  wrong.masks = {masked.masks[0], masked.masks[1]};
  CHECK_THROWS(kRequest, engine.submit(wrong));
}

TEST(progress_is_told_of_pieces_before_the_last) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e");
  EngineOptions options = small_options();
  options.max_batched_tokens = 32;
  Engine engine(dir / "m.l4e", options);
  std::mt19937 random(9);
  Request r = greedy(random_prompt(random, 150), 3);
  r.report_progress = true;
  r.n = 2;
  engine.submit(r);
  int64_t done = 0;
  int told = 0;
  bool token_seen = false;
  while (engine.has_work()) {
    for (const TokenEvent& e : engine.step()) {
      if (e.prompt_computed < 0) {
        token_seen = token_seen || !e.tokens.empty();
        continue;
      }
      CHECK(!token_seen && e.index == 0 && e.tokens.empty());
      CHECK(e.prompt_computed > done && e.prompt_computed < 150);
      done = e.prompt_computed;
      ++told;
    }
  }
  CHECK(told >= 4);
}

TEST(an_offer_is_for_the_next_token_only) {
  TokenMask mask{100};
  CHECK(mask.wait_for_offer(milliseconds(1)) == nullptr);  // nobody will make one
  mask.will_offer(true);
  CHECK(mask.wait_for_offer(milliseconds(1)) == nullptr);  // in time
  mask.offer({{1, 2}, {0, 0}, 1});                         // before the bits: of the token before
  CHECK(mask.wait_for_offer(milliseconds(1)) == nullptr);
  mask.publish();
  mask.further_bits(0)[0] = 5;
  mask.further_bits(15)[3] = 6;
  mask.offer({{1, 2}, {7, 3}, 1});
  const TokenMask::Offer* const offer = mask.wait_for_offer(milliseconds(1));
  CHECK(offer != nullptr);
  CHECK(offer && offer->guesses == (std::vector<int32_t>{1, 2}) && offer->rows == 1);
  mask.expire();
  CHECK(mask.wait_for_offer(milliseconds(1)) == nullptr);
  std::thread late([&] {
    mask.publish();
    mask.offer({{3}, {7}, 1});
  });
  const TokenMask::Offer* const next = mask.wait_for_offer(milliseconds(5000));
  CHECK(next && next->guesses == (std::vector<int32_t>{3}));
  late.join();
  mask.fail("no more");
  mask.expire();
  CHECK(mask.wait_for_offer(milliseconds(5000)) == nullptr);  // at once
}

}  // namespace
}  // namespace llama4rt
