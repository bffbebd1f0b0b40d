// layernorm: as rmsnorm, and with means far from zero.
#include "ops/conformance.h"

namespace llama4rt::test {

TEST(conforms) {
  SEEDED(rng);
  for (const cases::RowsCase& c : cases::kRowsCases) {
    SCOPE(c.tokens, " tokens, dim ", c.dim);
    Matrix x = random_activations(rng, c.tokens, c.dim), weight = random_activations(rng, 1, c.dim),
           bias = random_activations(rng, 1, c.dim);
    // A mean of 1000 beside deviations of 1: mean(x^2) - mean(x)^2 would lose the variance.
    for (int64_t t = 1; t < c.tokens; t += 2)
      for (int64_t i = 0; i < c.dim; ++i) x.row(t)[i] += 1000.0f;
    const Tensor w(weight.row(0), DType::kF32, {c.dim}), b(bias.row(0), DType::kF32, {c.dim});
    const float eps = 1e-5f;

    Oracle oracle(c.tokens, c.dim);
    for (int64_t t = 0; t < c.tokens; ++t) {
      double sum = 0, variance = 0, square = 0;
      for (int64_t i = 0; i < c.dim; ++i) sum += double(x.row(t)[i]);
      const double mean = sum / double(c.dim);
      for (int64_t i = 0; i < c.dim; ++i) {
        const double value = x.row(t)[i];
        variance += (value - mean) * (value - mean) / double(c.dim);
        square += value * value / double(c.dim);
      }
      const double scale = 1.0 / std::sqrt(variance + double(eps));
      for (int64_t i = 0; i < c.dim; ++i) {
        const double value = x.row(t)[i], by = scale * double(weight.row(0)[i]), plus = bias.row(0)[i];
        // The mean is as exact as the values it was made of.
        oracle.set(t, i, (value - mean) * by + plus,
                   (std::abs(value) + std::sqrt(square)) * std::abs(by) + std::abs(plus));
      }
    }
    conform(oracle, fp32_tolerance(c.dim), c.tokens, [&](Device& device, int64_t first, int64_t count) {
      Matrix in = x.part(first, count), out(count, c.dim);
      device.ops().layernorm(out.view(), in.view(), w, b, eps);
      return out;
    });
  }
}

TEST(works_in_place) {
  SEEDED(rng);
  Matrix x = random_activations(rng, 5, 333), weight = random_activations(rng, 1, 333),
         bias = random_activations(rng, 1, 333);
  const Tensor w(weight.row(0), DType::kF32, {333}), b(bias.row(0), DType::kF32, {333});
  const auto check = [&](Device& device) {
    Matrix out(5, 333), in_place = x;
    device.ops().layernorm(out.view(), x.view(), w, b, 1e-5f);
    device.ops().layernorm(in_place.view(), in_place.view(), w, b, 1e-5f);
    CHECK(in_place == out);
  };
  check(reference());
  for (const Subject& s : subjects()) {
    SCOPE(s.label);
    check(*s.device);
  }
}

TEST(eps_stands_inside_the_root) {
  Matrix x(1, 4), out(1, 4);
  for (int i = 0; i < 4; ++i) x.row(0)[i] = i < 2 ? 6.0f : 4.0f;  // mean 5, variance 1
  std::vector<float> ones(4, 1.0f), bias(4, 10.0f);
  reference().ops().layernorm(out.view(), x.view(), Tensor(ones.data(), DType::kF32, {4}),
                              Tensor(bias.data(), DType::kF32, {4}), 3.0f);
  CHECK_EQ(out.row(0)[0], 10.5f);  // 1 / sqrt(1 + 3) + 10
  CHECK_EQ(out.row(0)[3], 9.5f);
}

}  // namespace llama4rt::test
