// rotate_heads and tile_attention. What conform() calls a row is here a whole tile: a tile alone gives the
// same bits as among others.
#include "ops/conformance.h"

namespace llama4rt::test {
namespace {

std::vector<float> random_angles(Rng& rng, int64_t count) {
  std::vector<float> angles;
  for (int64_t i = 0; i < count; ++i) {
    const double angle = rng.uniform(-4.0f, 4.0f);
    angles.insert(angles.end(), {float(std::cos(angle)), float(std::sin(angle))});
  }
  return angles;
}

// [tiles * rows, columns] as [tiles, rows * columns].
Matrix by_tile(const Matrix& m, int64_t rows) {
  Matrix tiles(m.rows() / rows, rows * m.columns());
  for (int64_t i = 0; i < m.rows(); ++i)
    std::copy_n(m.row(i), m.columns(), tiles.row(i / rows) + i % rows * m.columns());
  return tiles;
}

Matrix attend(Device& device, Matrix qkv, const cases::TilesCase& c, float scale) {
  const int64_t width = c.num_heads * c.head_dim;
  Matrix out(qkv.rows(), width);
  const Tensor all = qkv.view();
  device.ops().tile_attention(out.view(), all.columns(0, width), all.columns(width, width),
                              all.columns(2 * width, width), c.rows, c.num_heads, scale);
  CHECK(out.intact());
  return out;
}

Oracle attention_oracle(const Matrix& qkv, const cases::TilesCase& c, double scale) {
  const int64_t dim = c.head_dim, width = c.num_heads * dim;
  Oracle oracle(c.tiles, c.rows * width);
  std::vector<double> score(static_cast<size_t>(c.rows));
  for (int64_t t = 0; t < qkv.rows(); ++t)
    for (int64_t head = 0; head < width; head += dim) {
      const float* q = qkv.row(t) + head;
      const int64_t tile = t / c.rows;
      double largest = -1e300, size = 0, largest_v = 0, sum = 0, q_square = 0;
      for (int64_t d = 0; d < dim; ++d) q_square += double(q[d]) * double(q[d]);
      for (int64_t j = 0; j < c.rows; ++j) {
        const float *k = qkv.row(tile * c.rows + j) + width + head, *v = k + width;
        double dot = 0, k_square = 0;
        for (int64_t d = 0; d < dim; ++d) {
          dot += double(q[d]) * double(k[d]);
          k_square += double(k[d]) * double(k[d]);
          largest_v = std::max(largest_v, std::abs(double(v[d])));
        }
        score[size_t(j)] = scale * dot;
        largest = std::max(largest, scale * dot);
        size = std::max(size, scale * std::sqrt(q_square * k_square));
      }
      for (double& p : score) sum += p = std::exp(p - largest);
      for (int64_t d = 0; d < dim; ++d) {
        double o = 0;
        for (int64_t j = 0; j < c.rows; ++j)
          o += score[size_t(j)] / sum * double(qkv.row(tile * c.rows + j)[2 * width + head + d]);
        // An error of a score is a relative error of its probability.
        oracle.set(tile, t % c.rows * width + head + d, o, (1.0 + size) * largest_v);
      }
    }
  return oracle;
}

}  // namespace

TEST(tile_attention_conforms) {
  SEEDED(rng);
  for (const cases::TilesCase& c : cases::kTilesCases) {
    SCOPE(c.tiles, " tiles of ", c.rows, " rows, ", c.num_heads, " heads of ", c.head_dim);
    const Matrix qkv = random_activations(rng, c.tiles * c.rows, 3 * c.num_heads * c.head_dim);
    const float scale = 1.0f / std::sqrt(float(c.head_dim));
    conform(attention_oracle(qkv, c, double(scale)), fp32_tolerance(c.head_dim), c.tiles,
            [&](Device& device, int64_t first, int64_t count) {
              return by_tile(attend(device, qkv.part(first * c.rows, count * c.rows), c, scale), c.rows);
            });
  }
}

TEST(a_single_row_gets_its_own_value) {
  SEEDED(rng);
  const cases::TilesCase c{.tiles = 3, .rows = 1, .num_heads = 2, .head_dim = 20};
  const Matrix qkv = random_activations(rng, 3, 120);
  const auto check = [&](Device& device) {
    const Matrix out = attend(device, qkv, c, 0.3f);
    for (int64_t t = 0; t < 3; ++t)
      for (int64_t i = 0; i < 40; ++i) CHECK_EQ(out.row(t)[i], qkv.row(t)[80 + i]);
  };
  check(reference());
  for (const Subject& s : subjects()) {
    SCOPE(s.label);
    check(*s.device);
  }
}

TEST(huge_scores_do_not_overflow) {
  SEEDED(rng);
  const cases::TilesCase c{.tiles = 1, .rows = 40, .num_heads = 1, .head_dim = 32};
  const Matrix qkv = random_activations(rng, 40, 96);
  for (const Subject& s : subjects()) {
    SCOPE(s.label);
    const Matrix out = attend(*s.device, qkv, c, 1e4f);
    for (int64_t i = 0; i < out.rows(); ++i)
      for (int64_t j = 0; j < out.columns(); ++j) CHECK(std::isfinite(out.row(i)[j]));
  }
}

// The CPU keeps keys and values of a tile in scratch memory: neither an earlier call's nor the ones of
// another tile take part.
TEST(nothing_is_left_from_other_tiles) {
  SEEDED(rng);
  const cases::TilesCase c{.tiles = 1, .rows = 21, .num_heads = 2, .head_dim = 24};
  const Matrix qkv = random_activations(rng, 21, 144);
  for (const Subject& s : subjects()) {
    SCOPE(s.label);
    const Matrix before = attend(*s.device, qkv, c, 0.2f);
    Matrix poison(48, 144), among(42, 144);  // a Matrix starts full of NaN
    attend(*s.device, poison, {.tiles = 1, .rows = 48, .num_heads = 2, .head_dim = 24}, 0.2f);
    CHECK(attend(*s.device, qkv, c, 0.2f) == before);
    for (int64_t i = 0; i < 21; ++i) std::copy_n(qkv.row(i), 144, among.row(21 + i));
    CHECK(attend(*s.device, among, c, 0.2f).part(21, 21) == before);
  }
}

TEST(rotate_heads_conforms) {
  SEEDED(rng);
  for (const cases::TilesCase& c : cases::kTilesCases) {
    SCOPE(c.tiles, " tiles of ", c.rows, " rows, ", c.num_heads, " heads of ", c.head_dim);
    const int64_t dim = c.head_dim, width = 2 * c.num_heads * dim;
    const Matrix x = random_activations(rng, c.tiles * c.rows, width);
    std::vector<float> angles = random_angles(rng, c.rows * dim / 2);
    const Tensor rope(angles.data(), DType::kF32, {c.rows, dim / 2, 2});
    Oracle oracle(c.tiles, c.rows * width);
    for (int64_t t = 0; t < x.rows(); ++t)
      for (int64_t i = 0; i < width; i += 2) {
        const double re = x.row(t)[i], im = x.row(t)[i + 1];
        const float* angle = angles.data() + t % c.rows * dim + i % dim;
        const double cosine = angle[0], sine = angle[1], size = std::hypot(re, im);
        const int64_t at = t % c.rows * width + i;
        oracle.set(t / c.rows, at, re * cosine - im * sine, size);
        oracle.set(t / c.rows, at + 1, re * sine + im * cosine, size);
      }
    conform(oracle, fp32_tolerance(2), c.tiles, [&](Device& device, int64_t first, int64_t count) {
      Matrix out = x.part(first * c.rows, count * c.rows);
      device.ops().rotate_heads(out.view(), rope);
      CHECK(out.intact());
      return by_tile(out, c.rows);
    });
  }
}

}  // namespace llama4rt::test
