// rmsnorm: the first op, and the pattern of the other op tests.
#include "ops/conformance.h"

namespace llama4rt::test {

TEST(conforms) {
  SEEDED(rng);
  for (const cases::RowsCase& c : cases::kRowsCases) {
    SCOPE(c.tokens, " tokens, dim ", c.dim);
    const Matrix x = random_activations(rng, c.tokens, c.dim);
    Matrix weight = random_activations(rng, 1, c.dim);
    const Tensor w(weight.row(0), DType::kF32, {c.dim});
    const float eps = 1e-5f;

    Oracle oracle(c.tokens, c.dim);
    for (int64_t t = 0; t < c.tokens; ++t) {
      double sum = 0;
      for (int64_t i = 0; i < c.dim; ++i) sum += double(x.row(t)[i]) * double(x.row(t)[i]);
      const double scale = 1.0 / std::sqrt(sum / double(c.dim) + double(eps));
      for (int64_t i = 0; i < c.dim; ++i) {
        const double y = double(x.row(t)[i]) * scale * double(weight.row(0)[i]);
        oracle.set(t, i, y, std::abs(y));
      }
    }
    conform(oracle, fp32_tolerance(c.dim), c.tokens, [&](Device& device, int64_t first, int64_t count) {
      Matrix in = x.part(first, count), out(count, c.dim);
      device.ops().rmsnorm(out.view(), in.view(), w, eps);
      return out;
    });
  }
}

TEST(works_in_place) {
  SEEDED(rng);
  Matrix x = random_activations(rng, 5, 333), weight = random_activations(rng, 1, 333);
  const Tensor w(weight.row(0), DType::kF32, {333});
  for (const Subject& s : subjects()) {
    SCOPE(s.label);
    Matrix out(5, 333), in_place = x;
    s.device->ops().rmsnorm(out.view(), x.view(), w, 1e-5f);
    s.device->ops().rmsnorm(in_place.view(), in_place.view(), w, 1e-5f);
    CHECK(in_place == out);
  }
}

TEST(eps_stands_inside_the_root) {
  Matrix x(1, 4), out(1, 4);
  std::fill_n(x.row(0), 4, 0.0f);
  x.row(0)[1] = 2.0f;  // mean square 1
  std::vector<float> ones(4, 1.0f);
  reference().ops().rmsnorm(out.view(), x.view(), Tensor(ones.data(), DType::kF32, {4}), 3.0f);
  CHECK_EQ(out.row(0)[1], 1.0f);  // 2 / sqrt(1 + 3)
  CHECK_EQ(out.row(0)[0], 0.0f);
}

}  // namespace llama4rt::test
