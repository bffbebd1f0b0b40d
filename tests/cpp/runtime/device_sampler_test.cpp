// Sampling through Ops::sample, as the reference defines it, against the sampler of the host: the
// same tokens and log probabilities.
#include "runtime/runner/device_sampler.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "ops/random_weights.h"
#include "reference/reference_ops.h"
#include "test.h"

namespace llama4rt::test {
namespace {

struct Request {
  SamplingParams params;
  std::vector<int32_t> tokens, ends;
  std::vector<uint32_t> allowed;
  int64_t num_prompt = 1;
  uint64_t seed = 0;
  uint32_t index = 0;

  SampleRequest view() const {
    SampleRequest r;
    r.params = &params;
    r.tokens = tokens;
    r.num_prompt = num_prompt;
    r.allowed = allowed;
    r.end_tokens = ends;
    r.seed = seed;
    r.index = index;
    return r;
  }
};

Request random_request(Rng& rng, int64_t size) {
  Request r;
  SamplingParams& p = r.params;
  const auto sometimes = [&](int64_t n) { return rng.below(n) == 0; };
  p.temperature = sometimes(4) ? 0 : double(rng.uniform(0.1f, 2));
  if (sometimes(3)) p.top_k = 1 + rng.below(size + 2);
  if (sometimes(6)) p.top_k = 1;
  if (sometimes(2)) p.top_p = double(rng.uniform(0.01f, 1));
  if (sometimes(8)) p.top_p = 1e-9;
  if (sometimes(3)) p.min_p = double(rng.uniform(0, 0.2f));
  if (sometimes(2)) p.repetition_penalty = double(rng.uniform(0.5f, 2));
  if (sometimes(2)) p.presence_penalty = double(rng.uniform(-2, 2));
  if (sometimes(2)) p.frequency_penalty = double(rng.uniform(-1, 1));
  for (int64_t id = 0; id < size && sometimes(2); id += 1 + rng.below(size))
    p.logit_bias.emplace_back(id, double(rng.uniform(-5, 5)));
  if (sometimes(2)) p.logprobs = rng.below(21);
  for (int64_t n = 1 + rng.below(40); n > 0; --n) r.tokens.push_back(int32_t(rng.below(size)));
  r.num_prompt = 1 + rng.below(int64_t(r.tokens.size()));
  p.min_tokens = rng.below(30);
  r.ends = {int32_t(rng.below(size)), int32_t(rng.below(size))};
  if (sometimes(3)) {
    r.allowed.resize(size_t((size + 31) / 32));
    for (uint32_t& word : r.allowed) word = sometimes(4) ? uint32_t(rng.bits()) : 0xffffffffu;
    if (sometimes(8)) std::fill(r.allowed.begin(), r.allowed.end(), 0u);
  }
  r.seed = rng.bits();
  r.index = uint32_t(rng.below(16));
  return r;
}

Matrix random_logits(Rng& rng, int64_t rows, int64_t size) {
  Matrix m(rows, size);
  for (int64_t i = 0; i < rows; ++i) {
    const float spread = rng.uniform(0.1f, 6);
    const bool coarse = rng.below(2) == 0;  // many equal logits, zeros of both signs
    for (int64_t j = 0; j < size; ++j) {
      const float x = spread * rng.normal();
      m.row(i)[j] = coarse ? std::round(x) * 0.5f : x;
    }
  }
  return m;
}

void check_equal_logprobs(const TokenLogprobs& a, const TokenLogprobs& b) {
  CHECK_CLOSE(a.logprob, b.logprob, 2e-7 * (1 + std::abs(double(b.logprob))));
  CHECK_EQ(a.top.size(), b.top.size());
  for (size_t i = 0; i < std::min(a.top.size(), b.top.size()); ++i) {
    CHECK_EQ(a.top[i].first, b.top[i].first);
    CHECK_CLOSE(a.top[i].second, b.top[i].second, 2e-7 * (1 + std::abs(double(b.top[i].second))));
  }
}

}  // namespace

TEST(is_the_sampler_of_the_host) {
  const uint64_t seed = std::random_device{}();
  SCOPE("seed ", seed);
  Rng rng(seed);
  ReferenceDevice device;
  Sampler host;
  for (const int64_t size : {1, 7, 50, 256, 257, 1000, 3000}) {
    DeviceSampler sampler(device, size, 6);
    for (int batch = 0; batch < (size > 500 ? 8 : 40); ++batch) {
      const int64_t count = 1 + rng.below(6);
      Matrix logits = random_logits(rng, count, size);
      if (batch % 5 == 0) logits.row(rng.below(count))[rng.below(size)] = std::nanf("");
      if (batch % 5 == 1)
        logits.row(rng.below(count))[rng.below(size)] = -std::numeric_limits<float>::infinity();
      std::vector<Request> requests;
      for (int64_t i = 0; i < count; ++i) requests.push_back(random_request(rng, size));
      sampler.clear();
      Matrix copy = logits;
      std::vector<SampledToken> tokens;
      std::vector<int32_t> next_ids(size_t(count), 77);
      const auto run = [&] {
        const auto first = int64_t(tokens.size());
        const DeviceSampler::Run submitted =
            sampler.submit(copy.view().rows(first, sampler.num_rows()), next_ids.data() + first);
        for (SampledToken& token : sampler.collect(submitted)) tokens.push_back(std::move(token));
        sampler.clear();
      };
      for (const Request& r : requests) {
        if (sampler.add(r.view())) continue;
        run();  // together they change too many tokens
        CHECK(sampler.add(r.view()));
      }
      run();
      for (int64_t i = 0; i < count; ++i) {
        SCOPE("V ", size, ", batch ", batch, ", row ", i);
        const SampledToken expected =
            host.sample(std::span(logits.row(i), size_t(size)), requests[size_t(i)].view());
        CHECK_EQ(tokens[size_t(i)].token, expected.token);
        CHECK_EQ(next_ids[size_t(i)], expected.token);
        if (expected.token >= 0) check_equal_logprobs(tokens[size_t(i)].logprobs, expected.logprobs);
      }
    }
  }
}

TEST(biases_count_when_all_else_is_equal) {
  ReferenceDevice device;
  DeviceSampler sampler(device, 10, 2);
  Request r;
  r.tokens = {1, 2};
  r.params.temperature = 0;
  r.params.logit_bias = {{3, 1.0}};
  CHECK(sampler.add(r.view()));
  Matrix logits(1, 10);
  std::fill_n(logits.row(0), 10, 0.5f);
  CHECK_EQ(sampler.collect(sampler.submit(logits.view()))[0].token, 3);
}

// More rows, or more edits, than fit leave what is there as it was.
TEST(takes_what_fits) {
  ReferenceDevice device;
  DeviceSampler sampler(device, 10, 3);
  Request r;
  r.tokens = {1};
  r.params.temperature = 0;
  for (int64_t id = 0; id < 8; ++id) r.params.logit_bias.emplace_back(id, id == 5 ? 2.0 : -2.0);
  CHECK(sampler.add(r.view()));
  CHECK(!sampler.add(r.view()));  // 16 edits
  r.params.logit_bias = {{7, 1.0}, {9, 3.0}};
  CHECK(sampler.add(r.view()));
  r.params.logit_bias.clear();
  CHECK(sampler.add(r.view()));
  CHECK(!sampler.add(r.view()));  // 4 rows
  CHECK_EQ(sampler.num_rows(), 3);
  Matrix logits(3, 10);
  for (int64_t i = 0; i < 3; ++i) std::fill_n(logits.row(i), 10, 0.5f);
  const std::vector<SampledToken> tokens = sampler.collect(sampler.submit(logits.view()));
  CHECK_EQ(tokens[0].token, 5);
  CHECK_EQ(tokens[1].token, 9);
  CHECK_EQ(tokens[2].token, 0);
}

// A token that is not known yet counts where only the number of tokens matters.
TEST(unknown_tokens_count) {
  ReferenceDevice device;
  DeviceSampler sampler(device, 50, 2);
  Rng rng(5);
  Request r;
  r.tokens = {1, 2, 3};
  r.num_prompt = 2;
  r.ends = {4};
  r.params.min_tokens = 2;
  r.seed = 9;
  for (int n = 0; n < 20; ++n) {
    Matrix logits = random_logits(rng, 2, 50);
    logits.row(0)[4] = 3;
    std::copy_n(logits.row(0), 50, logits.row(1));
    SampleRequest ahead = r.view();
    ahead.num_unknown = 1;
    Request later = r;
    later.tokens.push_back(17);
    sampler.clear();
    CHECK(sampler.add(ahead) && sampler.add(later.view()));
    const std::vector<SampledToken> tokens = sampler.collect(sampler.submit(logits.view()));
    CHECK_EQ(tokens[0].token, tokens[1].token);
    r.tokens.push_back(7);
  }
}

// All sums of weights are exact, so they may be added in any order.
TEST(weights_lie_on_their_grid) {
  for (float x = -30; x <= 0; x += 0.00137f) {
    const float e = sampling_exp(x), w = weight_on_grid(e);
    CHECK_EQ(std::ldexp(double(w), kWeightBits), std::floor(std::ldexp(double(w), kWeightBits)));
    CHECK(std::abs(double(w) - double(e)) <= std::ldexp(0.5, -kWeightBits));
  }
  CHECK_EQ(weight_on_grid(1.0f), 1.0f);
  CHECK_EQ(weight_on_grid(0.0f), 0.0f);
}

}  // namespace llama4rt::test
