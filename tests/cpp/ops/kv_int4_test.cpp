// The definitions of int4 keys and values and of the rotation in front of them, which every device is compared with.
#include "ops/kv_int4.h"

#include <cmath>
#include <vector>

#include "ops/conformance.h"
#include "ops/kv_rotation.h"

namespace llama4rt::test {
namespace {

struct Quantized {
  std::vector<uint8_t> codes;
  float scale = -1;

  explicit Quantized(const std::vector<float>& x) : codes(x.size(), uint8_t(99)) {
    quantize_kv_int4(codes.data(), scale, x.data(), int64_t(x.size()));
  }
  double value(size_t d) const { return double(2 * codes[d] - kKvInt4Zero) * double(scale); }
};

constexpr float kInfinity = std::numeric_limits<float>::infinity();

}  // namespace

TEST(int4_keys_are_off_by_half_a_step_and_use_the_whole_range) {
  SEEDED(rng);
  for (int turn = 0; turn < 200; ++turn) {
    std::vector<float> x(size_t(32 * (1 + turn % 8)));
    const float size = std::exp(rng.uniform(-40, 40));
    float largest = 0;
    for (float& value : x) {
      value = size * rng.uniform(-1, 1);
      largest = std::max(largest, std::abs(value));
    }
    const Quantized found(x);
    bool at_an_end = false;
    for (size_t d = 0; d < x.size(); ++d) {
      CHECK(found.codes[d] <= 15);
      CHECK_CLOSE(found.value(d), double(x[d]), 1.00001 * double(found.scale));
      at_an_end = at_an_end || found.codes[d] == 0 || found.codes[d] == 15;
    }
    CHECK(at_an_end);
    CHECK_EQ(found.scale * 16, largest);
  }
}

TEST(int4_keys_of_nothing_have_no_scale_and_no_number_shows_in_it) {
  for (float tiny : {0.0f, 1e-31f, -1e-44f}) CHECK_EQ(Quantized(std::vector<float>(32, tiny)).scale, 0.0f);
  for (float bad : {kInfinity, -kInfinity, std::nanf("")}) {
    std::vector<float> x(32, 1.0f);
    x[17] = bad;
    CHECK(std::isnan(Quantized(x).scale));
  }
}

TEST(the_rotation_spreads_keeps_products_and_undoes_itself) {
  SEEDED(rng);
  for (const int64_t dim : {32, 64, 96, 128, 160, 256}) {
    SCOPE(dim);
    const int64_t block = dim & -dim;
    std::vector<float> one(static_cast<size_t>(dim));
    one[1] = 1;
    rotate_head(one.data(), dim);
    for (int64_t d = 0; d < dim; ++d)
      CHECK_CLOSE(double(std::abs(one[size_t(d)])), d < block ? 1 / std::sqrt(double(block)) : 0.0, 1e-7);

    std::vector<float> a(one.size()), b(one.size());
    for (size_t d = 0; d < a.size(); ++d) a[d] = rng.uniform(-1, 1), b[d] = rng.uniform(-1, 1);
    std::vector<float> c = a, e = b;
    rotate_head(c.data(), dim);
    rotate_head(e.data(), dim);
    double before = 0, after = 0;
    for (size_t d = 0; d < a.size(); ++d) {
      before += double(a[d]) * double(b[d]);
      after += double(c[d]) * double(e[d]);
    }
    CHECK_CLOSE(after, before, 1e-5);
    rotate_head(c.data(), dim);
    for (size_t d = 0; d < a.size(); ++d) CHECK_CLOSE(c[d], a[d], 1e-6f);
  }
}

}  // namespace llama4rt::test
