// The definition of int8 keys and values, which every device is compared with.
#include "ops/kv_int8.h"

#include <cmath>
#include <vector>

#include "ops/conformance.h"

namespace llama4rt::test {
namespace {

struct Quantized {
  std::vector<int8_t> q;
  float scale = -1;

  explicit Quantized(const std::vector<float>& x) : q(x.size(), int8_t(99)) {
    quantize_kv(q.data(), scale, x.data(), int64_t(x.size()));
  }
};

constexpr float kInfinity = std::numeric_limits<float>::infinity();

}  // namespace

TEST(quantized_keys_are_off_by_half_a_step_and_use_the_whole_range) {
  SEEDED(rng);
  for (int turn = 0; turn < 200; ++turn) {
    std::vector<float> x(size_t(16 * (1 + turn % 16)));
    const float size = std::exp(rng.uniform(-40, 40));
    float largest = 0;
    for (float& value : x) {
      value = size * rng.uniform(-1, 1);
      largest = std::max(largest, std::abs(value));
    }
    const Quantized found(x);
    int most = 0;
    for (size_t d = 0; d < x.size(); ++d) {
      CHECK_CLOSE(double(found.q[d]) * double(found.scale), double(x[d]), 0.50001 * double(found.scale));
      most = std::max(most, std::abs(int(found.q[d])));
    }
    CHECK_EQ(most, 127);
    CHECK_CLOSE(found.scale * 127, largest, 1e-6f * largest);
  }
}

TEST(keys_of_nothing_are_zero_and_no_number_shows_in_the_scale) {
  for (float tiny : {0.0f, 1e-31f, -1e-44f}) {
    const Quantized found(std::vector<float>(16, tiny));
    CHECK(std::isfinite(found.scale));
    for (int8_t q : found.q) CHECK_EQ(int(q), 0);
  }
  for (float bad : {kInfinity, -kInfinity, std::nanf("")}) {
    std::vector<float> x(32, 1.0f);
    x[17] = bad;
    CHECK(std::isnan(Quantized(x).scale));
  }
}

}  // namespace llama4rt::test
