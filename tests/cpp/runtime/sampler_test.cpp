// The sampler against a slow implementation of the same rules, written with full sorts and double sums.
#include "runtime/sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <random>
#include <vector>

#include "runtime/sampling/philox.h"
#include "test.h"

namespace llama4rt {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
using Row = std::vector<float>;

Row random_row(std::mt19937& random, size_t size, float sigma = 3) {
  std::normal_distribution<float> normal(0, sigma);
  Row row(size);
  for (float& x : row) x = normal(random);
  return row;
}

struct Case {
  SamplingParams params;
  std::vector<int32_t> tokens = {1};
  int64_t num_prompt = 1;
  std::vector<int32_t> ends;
  uint64_t seed = 7;
  uint32_t index = 0;
};

SampledToken sample(const Row& row, const Case& c) {
  static Sampler sampler;
  Row copy = row;
  SampleRequest r;
  r.params = &c.params;
  r.tokens = c.tokens;
  r.num_prompt = c.num_prompt;
  r.end_tokens = c.ends;
  r.seed = c.seed;
  r.index = c.index;
  return sampler.sample(copy, r);
}

// Meister et al. 2022, with its logarithms: the tokens nearest to the entropy, until they hold `mass`.
void keep_typical(std::vector<double>& probability, double mass) {
  double entropy = 0;
  for (double x : probability)
    if (x > 0) entropy -= x * std::log(x);
  std::vector<std::pair<double, size_t>> order;
  for (size_t i = 0; i < probability.size(); ++i)
    if (probability[i] > 0) order.emplace_back(std::abs(-std::log(probability[i]) - entropy), i);
  std::sort(order.begin(), order.end());
  double total = 0;
  for (const auto& [distance, i] : order) {
    if (total >= mass) probability[i] = 0;
    total += probability[i];
  }
  total = 0;
  for (double x : probability) total += x;
  for (double& x : probability) x /= total;
}

// Every token's probability under the rules, straight from their definition.
std::vector<double> slow_probabilities(Row row, const Case& c) {
  const SamplingParams& p = c.params;
  for (const auto& [id, bias] : p.logit_bias) row[size_t(id)] += float(bias);
  if (int64_t(c.tokens.size()) - c.num_prompt < p.min_tokens)
    for (int32_t id : c.ends) row[size_t(id)] = -kInfinity;
  for (const auto& word : p.bad_words) {
    const std::vector<int32_t> output(c.tokens.begin() + c.num_prompt, c.tokens.end());
    bool ends_so = output.size() + 1 >= word.size();
    for (size_t i = 0; ends_so && i + 1 < word.size(); ++i)
      ends_so = output[output.size() + 1 - word.size() + i] == word[i];
    if (ends_so) row[size_t(word.back())] = -kInfinity;
  }
  std::map<int32_t, int> all, output;
  for (size_t i = 0; i < c.tokens.size(); ++i) {
    ++all[c.tokens[i]];
    if (int64_t(i) >= c.num_prompt) ++output[c.tokens[i]];
  }
  for (const auto& [id, n] : all) {
    float& x = row[size_t(id)];
    x = x > 0 ? x / float(p.repetition_penalty) : x * float(p.repetition_penalty);
  }
  for (const auto& [id, n] : output)
    row[size_t(id)] -= float(p.frequency_penalty) * float(n) + float(p.presence_penalty);

  std::vector<double> probability(row.size());
  std::vector<size_t> order(row.size());
  std::iota(order.begin(), order.end(), size_t(0));
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return row[a] > row[b]; });
  const double max = row[order[0]];
  if (p.temperature == 0) {
    probability[order[0]] = 1;
    return probability;
  }
  double total = 0;
  for (size_t i = 0; i < row.size(); ++i) {
    const double e = std::exp((double(row[i]) - max) / p.temperature);
    probability[i] = e >= p.min_p ? e : 0;
  }
  for (size_t rank = 0; rank < order.size(); ++rank)
    if (p.top_k > 0 && int64_t(rank) >= p.top_k) probability[order[rank]] = 0;
  for (double x : probability) total += x;
  double before = 0;
  for (size_t rank = 0; rank < order.size(); ++rank) {
    const double mass = probability[order[rank]];
    if (p.top_p < 1 && rank > 0 && before >= p.top_p * total) probability[order[rank]] = 0;
    before += mass;
  }
  total = 0;
  for (double x : probability) total += x;
  for (double& x : probability) x /= total;
  if (p.typical_p < 1) keep_typical(probability, p.typical_p);
  return probability;
}

// Draws many tokens and compares their counts with the slow probabilities (chi-square, 5 standard
// deviations).
void check_distribution(const Row& row, Case c) {
  const std::vector<double> expected = slow_probabilities(row, c);
  constexpr int kDraws = 6000;
  std::vector<int> counts(row.size());
  for (int i = 0; i < kDraws; ++i) {
    c.seed = 1000 + uint64_t(i);
    const int32_t token = sample(row, c).token;
    CHECK(token >= 0);
    ++counts[size_t(token)];
    if (expected[size_t(token)] == 0) CHECK(false);  // a token that the rules exclude
  }
  double chi_square = 0, rare = 0;
  int cells = 0, rare_count = 0;
  for (size_t i = 0; i < row.size(); ++i) {
    const double want = expected[i] * kDraws;
    if (want < 10) {
      rare += want;
      rare_count += counts[i];
      continue;
    }
    chi_square += (counts[i] - want) * (counts[i] - want) / want;
    ++cells;
  }
  if (rare > 1) {
    chi_square += (rare_count - rare) * (rare_count - rare) / rare;
    ++cells;
  }
  CHECK(chi_square < cells + 5 * std::sqrt(2.0 * cells));
}

TEST(philox_matches_the_published_known_answers) {
  const auto zeros = philox4x32({0, 0, 0, 0}, {0, 0});
  CHECK((zeros == std::array<uint32_t, 4>{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}));
  const uint32_t f = 0xffffffffu;
  const auto ones = philox4x32({f, f, f, f}, {f, f});
  CHECK((ones == std::array<uint32_t, 4>{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}));
  const auto pi =
      philox4x32({0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}, {0xa4093822u, 0x299f31d0u});
  CHECK((pi == std::array<uint32_t, 4>{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}));
}

TEST(exponential_is_close_and_exact_at_its_ends) {
  double worst = 0;
  for (float x = -86.9f; x <= 0; x += 0.00317f)
    worst = std::max(worst, std::abs(double(exp_nonpositive(x)) / std::exp(double(x)) - 1));
  CHECK(worst < 2e-7);
  CHECK_EQ(exp_nonpositive(0), 1.f);
  CHECK_EQ(exp_nonpositive(-88), 0.f);
  CHECK_EQ(exp_nonpositive(-kInfinity), 0.f);
}

TEST(greedy_takes_the_lowest_id_of_equals) {
  Case c;
  c.params.temperature = 0;
  for (size_t size : {1u, 5u, 256u, 257u, 1000u, 5000u}) {
    Row row(size, 1.f);
    CHECK_EQ(sample(row, c).token, 0);
    row[size - 1] = 2;
    CHECK_EQ(sample(row, c).token, int32_t(size - 1));
    row[size / 2] = 2;
    CHECK_EQ(sample(row, c).token, int32_t(size / 2));
  }
}

TEST(a_mask_leaves_the_best_of_what_it_allows) {
  std::mt19937 random(11);
  for (const size_t size : {1u, 3u, 31u, 32u, 33u, 255u, 256u, 300u, 5000u}) {
    for (int run = 0; run < 40; ++run) {
      Row row(size);
      for (float& x : row) x = float(int(random() % 50) - 25);  // many equals
      std::vector<uint32_t> allowed((size + 31) / 32);
      for (uint32_t& word : allowed) {
        const uint32_t kinds[] = {0, ~0u, uint32_t(random()), uint32_t(random() & random() & random())};
        word = kinds[run < 20 ? random() % 4 : random() % 2 * 3];
      }
      int32_t best = -1;
      for (size_t i = 0; i < size; ++i)
        if ((allowed[i / 32] >> (i % 32) & 1u) && (best < 0 || row[i] > row[size_t(best)])) best = int32_t(i);
      const std::vector<int32_t> tokens = {0};
      Sampler sampler;
      const auto choose = [&](double temperature, int64_t top_k, uint64_t seed) {
        SamplingParams params;
        params.temperature = temperature;
        params.top_k = top_k;
        params.logprobs = 0;
        SampleRequest request;
        request.params = &params;
        request.tokens = tokens;
        request.num_prompt = 1;
        request.seed = seed;
        request.allowed = allowed;
        Row copy = row;
        const SampledToken out = sampler.sample(copy, request);
        if (out.token >= 0) {  // of the model's own logits
          TokenLogprobs own;
          CHECK(sampler.logprobs(own, row, out.token, 0));
          CHECK_EQ(out.logprobs.logprob, own.logprob);
        }
        return out.token;
      };
      CHECK_EQ(choose(0, 0, 1), best);
      CHECK_EQ(choose(1, 1, 1), best);
      for (uint64_t seed = 0; seed < 8; ++seed) {
        const int32_t token = choose(2, 0, seed);
        CHECK_EQ(token < 0, best < 0);
        if (token >= 0) CHECK((allowed[size_t(token) / 32] >> (token % 32) & 1u) != 0);
      }
    }
  }
}

TEST(refuses_rows_with_nan_or_infinity) {
  std::mt19937 random(3);
  for (float bad : {std::nanf(""), kInfinity, -kInfinity})
    for (size_t at : {size_t(0), size_t(15), size_t(256), size_t(998), size_t(999)}) {
      Row row = random_row(random, 1000);
      row[at] = bad;
      CHECK_EQ(sample(row, Case{}).token, -1);
      TokenLogprobs unused;
      CHECK(!Sampler().logprobs(unused, row, 0, 0));
    }
}

TEST(draws_what_each_parameter_asks_for) {
  std::mt19937 random(11);
  const Row small = random_row(random, 40, 1.5f);
  const Row large = random_row(random, 1000, 4);
  Case c;
  check_distribution(small, c);
  check_distribution(large, c);
  c.params.temperature = 0.5;
  check_distribution(small, c);
  c.params.temperature = 2;
  check_distribution(small, c);
  for (int64_t k : {1, 2, 7, 40, 100}) {
    c = {};
    c.params.top_k = k;
    check_distribution(small, c);
    check_distribution(large, c);
  }
  for (double p : {0.05, 0.5, 0.9, 0.999}) {
    c = {};
    c.params.top_p = p;
    check_distribution(small, c);
    check_distribution(large, c);
  }
  for (double p : {0.01, 0.2, 1.0}) {
    c = {};
    c.params.min_p = p;
    check_distribution(small, c);
    check_distribution(large, c);
  }
  c = {};
  c.params.temperature = 1.3;
  c.params.top_k = 12;
  c.params.top_p = 0.8;
  c.params.min_p = 0.05;
  check_distribution(small, c);
  check_distribution(Row(700, 0.25f), c);  // all equal: the lowest ids are kept
}

TEST(typical_p_keeps_what_is_nearest_to_the_entropy) {
  std::mt19937 random(12);
  const Row small = random_row(random, 40, 1.5f);
  const Row peaked = random_row(random, 1000, 4);
  const Row flat = random_row(random, 1000, 0.3f);  // more tokens than the first guess of 256 are needed
  for (double p : {0.01, 0.3, 0.7, 0.95}) {
    Case c;
    c.params.typical_p = p;
    check_distribution(small, c);
    check_distribution(peaked, c);
    check_distribution(flat, c);
    c.params.temperature = 1.7;
    c.params.top_k = 20;
    c.params.min_p = 0.01;
    check_distribution(small, c);
  }
  // The likeliest token is not the most typical one: of 0.4 and twelve times 0.05 the latter are nearer.
  Row one(13, 0.f);
  one[3] = std::log(8.f);
  Case c;
  c.params.typical_p = 0.3;
  for (c.seed = 0; c.seed < 50; ++c.seed) CHECK(sample(one, c).token != 3);
  c.params.temperature = 0;
  CHECK_EQ(sample(one, c).token, 3);  // greedy has one token
}

TEST(bad_words_are_forbidden_where_the_output_completes_them) {
  std::mt19937 random(13);
  const Row row = random_row(random, 30, 1);
  const auto check = [&](std::vector<int32_t> output, std::vector<std::vector<int64_t>> words) {
    Case c;
    c.tokens = {1, 2, 3};
    c.num_prompt = 3;
    c.tokens.insert(c.tokens.end(), output.begin(), output.end());
    c.params.bad_words = std::move(words);
    check_distribution(row, c);
  };
  check({}, {{5}, {6}});
  check({}, {{3, 5}});  // the prompt is no output
  check({3}, {{3, 5}, {4, 6}});
  check({7, 8}, {{7, 8, 9}, {8, 10}, {9, 8, 11}, {8, 7, 12}});
  check({7, 8, 1}, {{7, 8, 9}});
}

TEST(top_p_reaches_far_into_flat_distributions) {
  // More tokens than the first guess of 256 are needed.
  Row row(5000);
  for (size_t i = 0; i < row.size(); ++i) row[i] = -float(i % 977) * 1e-3f;
  Case c;
  c.params.top_p = 0.7;
  const std::vector<double> expected = slow_probabilities(row, c);
  for (int i = 0; i < 2000; ++i) {
    c.seed = uint64_t(i);
    CHECK(expected[size_t(sample(row, c).token)] > 0);
  }
}

TEST(penalties_bias_and_forbidden_ends_match_their_definition) {
  std::mt19937 random(5);
  for (int run = 0; run < 300; ++run) {
    const Row row = random_row(random, 30);
    Case c;
    c.params.temperature = 0;
    c.tokens.clear();
    for (int i = 0; i < 25; ++i) c.tokens.push_back(int32_t(random() % 30));
    c.num_prompt = 1 + int64_t(random() % 25);
    if (run % 2) c.params.repetition_penalty = 0.5 + double(random() % 20) / 10;
    if (run % 3) c.params.presence_penalty = double(random() % 40) / 10 - 2;
    if (run % 5) c.params.frequency_penalty = double(random() % 40) / 10 - 2;
    if (run % 7 == 0) c.params.logit_bias = {{3, 5.0}, {4, -5.0}};
    c.ends = {8, 9};
    c.params.min_tokens = int64_t(random() % 20);
    const std::vector<double> expected = slow_probabilities(row, c);
    const auto best = int32_t(std::max_element(expected.begin(), expected.end()) - expected.begin());
    CHECK_EQ(sample(row, c).token, best);
  }
  Case c;  // nothing may leak from one call into the next
  c.params.temperature = 1;
  c.tokens = {1, 2, 3, 3, 3};
  c.params.frequency_penalty = 0.7;
  c.params.repetition_penalty = 1.4;
  check_distribution(random_row(random, 20, 1), c);
}

TEST(depends_on_seed_index_and_position_only) {
  std::mt19937 random(9);
  const Row row = random_row(random, 500, 0.5f);
  Case c;
  const int32_t first = sample(row, c).token;
  sample(random_row(random, 800), c);  // other work between
  CHECK_EQ(sample(row, c).token, first);
  int different[3] = {};
  for (uint32_t i = 1; i <= 20; ++i) {
    Case other = c;
    other.seed = c.seed + i;
    different[0] += sample(row, other).token != first;
    other = c;
    other.index = i;
    different[1] += sample(row, other).token != first;
    other = c;
    other.tokens.assign(1 + i, 1);
    other.num_prompt = 1 + i;
    different[2] += sample(row, other).token != first;
  }
  for (int count : different) CHECK(count > 15);
}

TEST(logprobs_are_of_the_model_before_any_editing) {
  std::mt19937 random(13);
  for (size_t size : {3u, 30u, 700u, 9000u}) {
    const Row row = random_row(random, size);
    double sum = 0;
    for (float x : row) sum += std::exp(double(x));
    const auto exact = [&](int32_t id) { return double(row[size_t(id)]) - std::log(sum); };
    std::vector<int32_t> order(size);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return row[size_t(a)] > row[size_t(b)]; });
    Case c;
    c.params.logprobs = 20;
    c.params.temperature = 3;
    c.params.repetition_penalty = 2;
    c.params.logit_bias = {{0, 4.0}, {1, -3.0}};
    c.tokens = {0, 1, 2, 2};
    for (uint64_t seed = 0; seed < 20; ++seed) {
      c.seed = seed;
      const SampledToken t = sample(row, c);
      CHECK_CLOSE(t.logprobs.logprob, exact(t.token), 3e-6);
      CHECK_EQ(t.logprobs.top.size(), std::min<size_t>(20, size));
      for (size_t i = 0; i < t.logprobs.top.size(); ++i) {
        CHECK_EQ(t.logprobs.top[i].first, order[i]);
        CHECK_CLOSE(t.logprobs.top[i].second, exact(order[i]), 3e-6);
      }
    }
    TokenLogprobs of_prompt;
    CHECK(Sampler().logprobs(of_prompt, row, 2, 3));
    CHECK_CLOSE(of_prompt.logprob, exact(2), 3e-6);
    CHECK_EQ(of_prompt.top.size(), size_t(3));
    CHECK(Sampler().logprobs(of_prompt = {}, row, 2, 0));
    CHECK(of_prompt.top.empty());
  }
}

}  // namespace
}  // namespace llama4rt
