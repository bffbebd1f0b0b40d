// The tables of position: rows 8 to 10 of the parity checklist.
#include "model/rope.h"

#include <cmath>
#include <vector>

#include "test.h"

namespace llama4rt {
namespace {

ModelConfig scout() {
  ModelConfig c;
  c.head_dim = 128;
  c.rope_theta = 500000;
  c.has_rope_scaling = true;
  c.rope_scaling = {
      .factor = 16, .low_freq_factor = 1, .high_freq_factor = 1, .original_max_position_embeddings = 8192};
  c.rope_layers = {true, true, true, false};
  c.chunked_layers = {true, true, true, false};
  c.attention_chunk_size = 8192;
  c.attn_temperature_tuning = true;
  c.attn_scale = 0.1;
  c.floor_scale = 8192;
  return c;
}

TEST(scout_divides_exactly_the_long_wavelengths_by_16) {
  ModelConfig c = scout();
  const std::vector<float> scaled = rope_frequencies(c);
  c.has_rope_scaling = false;
  const std::vector<float> base = rope_frequencies(c);
  CHECK_EQ(base.size(), size_t(64));
  CHECK_EQ(base[0], 1.f);
  for (size_t i = 0; i < 64; ++i) {
    SCOPE("pair ", i);
    CHECK_EQ(scaled[i], i < 35 ? base[i] : base[i] / 16);
    CHECK_CLOSE(base[i], std::exp(-std::log(500000.0) * 2 * double(i) / 128), 1e-7 * base[i]);
  }
}

TEST(llama3_rule_blends_between_its_two_wavelengths) {
  ModelConfig c = scout();
  c.rope_scaling.factor = 8;
  c.rope_scaling.high_freq_factor = 4;
  const std::vector<float> scaled = rope_frequencies(c);
  c.has_rope_scaling = false;
  const std::vector<float> base = rope_frequencies(c);
  int blended = 0;
  for (size_t i = 0; i < 64; ++i) {
    const double wavelength = 2 * 3.14159265358979 / base[i];
    double expected = base[i];
    if (wavelength > 8192) {
      expected = base[i] / 8.0;
    } else if (wavelength > 2048) {
      const double smooth = (8192 / wavelength - 1) / 3;
      expected = (1 - smooth) * base[i] / 8 + smooth * base[i];
      ++blended;
    }
    CHECK_CLOSE(scaled[i], expected, 1e-6 * expected);
  }
  CHECK(blended > 3);
}

TEST(positions_restart_in_every_chunk_where_all_rotating_layers_are_chunked) {
  ModelConfig c = scout();
  CHECK_EQ(rope_position(c, 8191), 8191);
  CHECK_EQ(rope_position(c, 8192), 0);
  CHECK_EQ(rope_position(c, 10 * int64_t(1048576) + 5), 5);
  c.chunked_layers[1] = false;  // a rotating layer that looks beyond its chunk
  CHECK_EQ(rope_position(c, 8192), 8192);
}

TEST(rotation_by_local_and_absolute_positions_gives_the_same_scores) {
  // q . k after rotation depends on the distance alone.
  const std::vector<float> f = rope_frequencies(scout());
  const auto score = [&](int64_t p, int64_t k) {
    std::vector<float> a(128), b(128);
    rope_angles(a.data(), f, p);
    rope_angles(b.data(), f, k);
    double sum = 0;  // of (1, 0) rotated by a and (1, 0) rotated by b, pair by pair
    for (size_t i = 0; i < 128; ++i) sum += double(a[i]) * b[i];
    return sum;
  };
  CHECK_CLOSE(score(8192 + 700, 8192 + 3), score(700, 3), 1e-4);
  CHECK_CLOSE(score(5 * 8192 + 8191, 5 * 8192), score(8191, 0), 1e-4);
}

TEST(temperature_changes_first_where_p_plus_one_reaches_the_floor) {
  const ModelConfig c = scout();
  CHECK_EQ(attention_temperature(c, 0), 1.f);
  CHECK_EQ(attention_temperature(c, 8190), 1.f);
  CHECK_CLOSE(attention_temperature(c, 8191), 1 + 0.1 * std::log(2.0), 1e-7);
  CHECK_CLOSE(attention_temperature(c, 131071), 1 + 0.1 * std::log(17.0), 1e-7);
  CHECK_CLOSE(attention_temperature(c, 1048575), 1 + 0.1 * std::log(129.0), 1e-7);
  CHECK_CLOSE(attention_temperature(c, 10485759), 1.7155, 5e-5);
}

}  // namespace
}  // namespace llama4rt
