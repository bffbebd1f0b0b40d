// The error of int16 activations, as docs/numerics.md states it: outputs of the CPU against exact products,
// for rows of different character.
#include "ops/conformance.h"

namespace llama4rt::test {
namespace {

constexpr int64_t kTokens = 8, kInputs = 5120, kOutputs = 64;

// Rms of error over rms of magnitude, whole tensor.
double relative_error(Device& device, const Matrix& x, const Weight& w, const std::vector<Product>& exact) {
  Matrix in = x, out(kTokens, kOutputs);
  device.ops().linear(out.view(), in.view(), w);
  double error = 0, magnitude = 0;
  for (int64_t t = 0; t < kTokens; ++t)
    for (int64_t n = 0; n < kOutputs; ++n) {
      const Product& p = exact[size_t(t * kOutputs + n)];
      error += (double(out.row(t)[n]) - p.value) * (double(out.row(t)[n]) - p.value);
      magnitude += p.magnitude * p.magnitude;
    }
  return std::sqrt(error / magnitude);
}

void check_rows(Rng& rng, const char* what, const Matrix& x, double limit_g32, double limit_g128) {
  for (const int group : {32, 128}) {
    const cases::WeightSpec spec{.kind = WeightKind::kInt4, .group_size = group};
    SCOPE(what, ", group ", group);
    const RandomWeight weight(rng, spec, 1, kOutputs, kInputs);
    std::vector<Product> exact;
    for (int64_t t = 0; t < kTokens; ++t)
      for (int64_t n = 0; n < kOutputs; ++n) exact.push_back(product(x.row(t), weight.view(), n));
    for (const Subject& s : subjects())
      CHECK_CLOSE(relative_error(*s.device, x, weight.view(), exact), 0.0,
                  group == 32 ? limit_g32 : limit_g128);
  }
}

}  // namespace

TEST(ordinary_rows_lose_two_parts_in_a_hundred_thousand) {
  SEEDED(rng);
  Matrix x(kTokens, kInputs);
  for (int64_t t = 0; t < kTokens; ++t)
    for (int64_t k = 0; k < kInputs; ++k) x.row(t)[k] = rng.normal();
  check_rows(rng, "gaussian", x, 3e-5, 3.5e-5);
}

TEST(rows_with_outliers_stay_below_the_derived_bound) {
  SEEDED(rng);
  Matrix x(kTokens, kInputs);
  for (int64_t t = 0; t < kTokens; ++t) {
    for (int64_t k = 0; k < kInputs; ++k) x.row(t)[k] = rng.normal();
    for (int i = 0; i < 3; ++i) x.row(t)[rng.below(kInputs)] *= 1000.0f;
  }
  check_rows(rng, "3 outliers x 1000", x, 8e-5, 1.6e-4);
}

}  // namespace llama4rt::test
