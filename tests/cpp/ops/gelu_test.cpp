// gelu and add_bias: element by element.
#include "ops/conformance.h"

namespace llama4rt::test {
namespace {

double exact_gelu(double y) { return 0.5 * y * std::erfc(-y / std::sqrt(2.0)); }

// gelu of any number of values, without a bias.
std::vector<float> gelu_of(Device& device, std::vector<float> values) {
  device.ops().gelu(Tensor(values.data(), DType::kF32, {1, int64_t(values.size())}), {});
  return values;
}

}  // namespace

TEST(gelu_conforms) {
  SEEDED(rng);
  for (const cases::RowsCase& c : cases::kRowsCases)
    for (const bool with_bias : {true, false}) {
      SCOPE(c.tokens, " tokens, dim ", c.dim, with_bias ? ", bias" : "");
      const Matrix x = random_activations(rng, c.tokens, c.dim);
      Matrix bias = random_activations(rng, 1, c.dim);
      Oracle oracle(c.tokens, c.dim);
      for (int64_t t = 0; t < c.tokens; ++t)
        for (int64_t i = 0; i < c.dim; ++i) {
          const double value = x.row(t)[i], plus = with_bias ? double(bias.row(0)[i]) : 0.0;
          oracle.set(t, i, exact_gelu(value + plus), std::abs(value) + std::abs(plus));
        }
      conform(oracle, fp32_tolerance(1), c.tokens, [&](Device& device, int64_t first, int64_t count) {
        Matrix out = x.part(first, count);
        device.ops().gelu(out.view(), with_bias ? Tensor(bias.row(0), DType::kF32, {c.dim}) : Tensor());
        return out;
      });
    }
}

// The bounds that cpu/generic/math.h states, over the whole range in which gelu is neither 0 nor y.
TEST(gelu_is_as_exact_as_it_says) {
  std::vector<float> y;
  for (int i = -140'000; i <= 140'000; ++i) y.push_back(float(i) * 1e-4f);
  for (const Subject& s : subjects()) {
    SCOPE(s.label);
    const std::vector<float> found = gelu_of(*s.device, y);
    double worst = 0, worst_relative = 0;
    for (size_t i = 0; i < y.size(); ++i) {
      if (y[i] == 0) continue;
      const double exact = exact_gelu(y[i]), error = std::abs(double(found[i]) - exact);
      worst = std::max(worst, error / std::abs(double(y[i])));
      if (y[i] > -3) worst_relative = std::max(worst_relative, error / std::abs(exact));
    }
    CHECK_CLOSE(worst, 0.0, 1.3e-7);
    CHECK_CLOSE(worst_relative, 0.0, 4e-7);
  }
}

TEST(gelu_of_extreme_values) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> y = {0.0f,   infinity, -infinity, std::nanf(""), 3e38f,
                                -3e38f, 20.0f,    -20.0f,    1e-30f};
  for (const Subject& s : subjects()) {
    SCOPE(s.label);
    const std::vector<float> found = gelu_of(*s.device, y);
    CHECK_EQ(found[0], 0.0f);
    CHECK_EQ(found[1], infinity);
    CHECK_CLOSE(found[2], 0.0, 1e-34);
    CHECK(std::isnan(found[3]));
    CHECK_EQ(found[4], 3e38f);
    CHECK_CLOSE(found[5], 0.0, 1e-34);
    CHECK_EQ(found[6], 20.0f);
    CHECK_CLOSE(found[7], 0.0, 1e-34);
    CHECK_CLOSE(found[8], 0.5e-30, 1e-37);
  }
}

TEST(add_bias_is_exact) {
  SEEDED(rng);
  for (const cases::RowsCase& c : cases::kRowsCases) {
    const Matrix x = random_activations(rng, c.tokens, c.dim);
    Matrix bias = random_activations(rng, 1, c.dim), expected = x;
    for (int64_t t = 0; t < c.tokens; ++t)
      for (int64_t i = 0; i < c.dim; ++i) expected.row(t)[i] += bias.row(0)[i];
    const auto check = [&](Device& device) {
      Matrix out = x;
      device.ops().add_bias(out.view(), Tensor(bias.row(0), DType::kF32, {c.dim}));
      CHECK(out == expected);
    };
    check(reference());
    for (const Subject& s : subjects()) {
      SCOPE(s.label, ", ", c.tokens, " tokens, dim ", c.dim);
      check(*s.device);
    }
  }
}

}  // namespace llama4rt::test
