// Rows of logits compared: against the definition in double precision, and against what the sampler reports.
#include "runtime/sampling/row_divergence.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "runtime/sampling/sampler.h"
#include "test.h"

namespace llama4rt {
namespace {

using namespace test;

Tensor view(std::vector<float>& values, int64_t rows) {
  return Tensor(values.data(), DType::kF32, {rows, int64_t(values.size()) / rows});
}

std::vector<float> random_logits(std::mt19937& random, int64_t count, float size) {
  std::normal_distribution<float> normal(0, size);
  std::vector<float> logits(static_cast<size_t>(count));
  for (float& x : logits) x = normal(random);
  return logits;
}

double exact_log_sum(const float* row, int64_t size) {
  double sum = 0;
  const double top = *std::max_element(row, row + size);
  for (int64_t i = 0; i < size; ++i) sum += std::exp(double(row[i]) - top);
  return top + std::log(sum);
}

double exact_divergence(const float* p, const float* q, int64_t size) {
  const double p_sum = exact_log_sum(p, size), q_sum = exact_log_sum(q, size);
  double out = 0;
  for (int64_t i = 0; i < size; ++i)
    out += std::exp(double(p[i]) - p_sum) * ((double(p[i]) - p_sum) - (double(q[i]) - q_sum));
  return out;
}

TEST(divergence_is_that_of_the_definition) {
  std::mt19937 random(1);
  for (const int64_t size : {1, 15, 256, 257, 5000})
    for (const float apart : {0.f, 0.01f, 1.f, 8.f}) {
      SCOPE(size, " tokens, ", apart, " apart");
      const int64_t rows = 7;
      std::vector<float> p = random_logits(random, rows * size, 3), q = p;
      std::normal_distribution<float> normal(0, 1);
      if (apart > 0)
        for (float& x : q) x += apart * normal(random) + 2;  // a shift of all changes no probability
      std::vector<int32_t> next(size_t(rows), int32_t(size / 2));
      const std::vector<RowDivergence> out = compare_logits(view(p, rows), view(q, rows), next, 2);
      for (int64_t r = 0; r < rows; ++r) {
        const RowDivergence& row = out[size_t(r)];
        const float *p_row = p.data() + r * size, *q_row = q.data() + r * size;
        CHECK(row.finite);
        CHECK_CLOSE(row.divergence, exact_divergence(p_row, q_row, size), 1e-6 * (1 + double(apart)));
        CHECK_CLOSE(row.p_logprob, double(p_row[size / 2]) - exact_log_sum(p_row, size), 1e-5);
        CHECK_CLOSE(row.q_logprob, double(q_row[size / 2]) - exact_log_sum(q_row, size), 1e-5);
        CHECK_EQ(row.p_best, int32_t(std::max_element(p_row, p_row + size) - p_row));
        CHECK_EQ(row.q_best, int32_t(std::max_element(q_row, q_row + size) - q_row));
        if (apart == 0) CHECK_EQ(row.divergence, 0.0);
      }
    }
}

TEST(it_is_not_symmetric_and_knows_which_is_which) {
  std::vector<float> p = {3, 0, 0}, q = {0, 0, 0};
  const std::vector<int32_t> next = {0};
  const RowDivergence forth = compare_logits(view(p, 1), view(q, 1), next, 1)[0];
  const RowDivergence back = compare_logits(view(q, 1), view(p, 1), next, 1)[0];
  CHECK_CLOSE(forth.divergence, exact_divergence(p.data(), q.data(), 3), 1e-6);
  CHECK_CLOSE(back.divergence, exact_divergence(q.data(), p.data(), 3), 1e-6);
  CHECK(std::abs(forth.divergence - back.divergence) > 0.1);
  CHECK_EQ(forth.p_logprob, back.q_logprob);
}

TEST(log_probabilities_are_the_sampler_s_bit_for_bit) {
  std::mt19937 random(2);
  const int64_t size = 3001;
  std::vector<float> p = random_logits(random, size, 4), q = random_logits(random, size, 4);
  Sampler sampler;
  TokenLogprobs p_expected, q_expected;
  const std::vector<int32_t> next = {1234};
  CHECK(sampler.logprobs(p_expected, p, next[0], 1) && sampler.logprobs(q_expected, q, next[0], 1));
  const RowDivergence row = compare_logits(view(p, 1), view(q, 1), next, 1)[0];
  CHECK_EQ(row.p_logprob, p_expected.logprob);
  CHECK_EQ(row.q_logprob, q_expected.logprob);
  CHECK_EQ(row.p_best, p_expected.top[0].first);
  CHECK_EQ(row.q_best, q_expected.top[0].first);
}

TEST(rows_that_are_not_finite_are_named) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
    for (const bool second : {false, true}) {
      std::vector<float> p(8, 1), q(8, 1);
      (second ? q : p)[5] = bad;
      const std::vector<int32_t> next = {0, 1};
      const std::vector<RowDivergence> out = compare_logits(view(p, 2), view(q, 2), next, 1);
      CHECK(out[0].finite);
      CHECK(!out[1].finite);
    }
}

TEST(shapes_and_tokens_are_checked) {
  std::vector<float> p(8), q(8), other(6);
  const std::vector<int32_t> next = {0, 1}, outside = {0, 4}, one = {0};
  CHECK_THROWS(kRequest, compare_logits(view(p, 2), view(other, 2), next, 1));
  CHECK_THROWS(kRequest, compare_logits(view(p, 2), view(q, 1), next, 1));
  CHECK_THROWS(kRequest, compare_logits(view(p, 2), view(q, 2), outside, 1));
  CHECK_THROWS(kRequest, compare_logits(view(p, 2), view(q, 2), one, 1));
}

}  // namespace
}  // namespace llama4rt
