// The vision tower against a second, plain implementation in double precision that shares no code with it.
#include "model/vision.h"

#include <array>
#include <cmath>
#include <map>
#include <memory>

#include "model/tiny_engine.h"
#include "ops/conformance.h"
#include "runtime/plan/measure_step.h"

namespace llama4rt::test {
namespace {

VisionConfig vision_config(int64_t hidden, int heads, int layers, int image_size, int patch_size) {
  VisionConfig c;
  c.hidden_size = hidden;
  c.num_attention_heads = heads;
  c.num_hidden_layers = layers;
  c.intermediate_size = 4 * hidden;
  c.adapter_hidden_size = 56;
  c.output_dim = 40;
  c.image_size = image_size;
  c.patch_size = patch_size;
  c.rope_theta = 10000;
  c.norm_eps = 1e-5f;
  c.patch_token_id = 7;
  return c;
}

// An engine file with a random tower, and the values of its tensors.
struct TowerFile {
  TempDir dir;
  std::map<std::string, std::vector<float>> values;
  std::unique_ptr<EngineFile> file;
  VisionWeights weights;

  TowerFile(const VisionConfig& vision, uint32_t seed) {
    TinyEngine spec;
    spec.seed = seed;
    spec.config.vision = vision;
    spec.change = [this](const std::string& name, std::vector<float>& v, int64_t) {
      for (float& x : v) x = to_float(to_bf16(x));  // so that what is stored is what we remember
      values[name] = v;
    };
    write_tiny_engine(dir / "m.l4e", spec);
    file = std::make_unique<EngineFile>(dir / "m.l4e");
    weights = VisionWeights::load(*file);
  }
  const ModelConfig& config() const { return file->config(); }
  const VisionConfig& vision() const { return *file->config().vision; }
};

std::vector<uint8_t> random_tiles(Rng& rng, const VisionConfig& c, int64_t count) {
  std::vector<uint8_t> tiles(size_t(count * c.image_size * c.image_size * 3));
  for (uint8_t& pixel : tiles) pixel = uint8_t(rng.bits());
  return tiles;
}

// --- the plain tower

using Rows = std::vector<std::vector<double>>;

double round_to_bf16(double x) {  // 8 bits of significand, ties to even
  if (x == 0) return 0;
  const int exponent = std::ilogb(x);
  return std::scalbn(std::nearbyint(std::scalbn(x, 7 - exponent)), exponent - 7);
}

double colour(uint8_t u) {
  const double scaled = round_to_bf16(double(float(u) * (1.0f / 255.0f)));
  return round_to_bf16(2 * round_to_bf16(scaled - 0.5));
}

class PlainTower {
 public:
  explicit PlainTower(const TowerFile& tower) : values_(tower.values), c_(tower.vision()) {}

  Rows encode(const uint8_t* tile) const {
    Rows x = embedded(tile);
    x = layernorm(x, "vision.pre_norm");
    for (int l = 0; l < c_.num_hidden_layers; ++l) {
      const std::string prefix = "vision.layers." + std::to_string(l);
      x = sum(x, attention(layernorm(x, prefix + ".attn_norm"), prefix + ".attn"));
      const Rows wide = gelu(linear(layernorm(x, prefix + ".mlp_norm"), prefix + ".mlp.fc1", true));
      x = sum(x, linear(wide, prefix + ".mlp.fc2", true));
    }
    x = layernorm(x, "vision.post_norm");
    Rows tokens;
    for (int row = 0; row < c_.grid(); row += 2)
      for (int column = 0; column < c_.grid(); column += 2) {
        std::vector<double>& token = tokens.emplace_back();
        for (int dy = 0; dy < 2; ++dy)
          for (int dx = 0; dx < 2; ++dx) {
            const std::vector<double>& patch = x[size_t((row + dy) * c_.grid() + column + dx)];
            token.insert(token.end(), patch.begin(), patch.end());
          }
      }
    tokens = gelu(linear(tokens, "vision.adapter.fc1", false));
    tokens = gelu(linear(tokens, "vision.adapter.fc2", false));
    return linear(tokens, "vision.projector", false);
  }

 private:
  const std::vector<float>& at(const std::string& name) const { return values_.at(name); }

  Rows embedded(const uint8_t* tile) const {
    const std::vector<float>&kernel = at("vision.patch_embedding"),
          &position = at("vision.positional_embedding");
    const size_t hidden = size_t(c_.hidden_size), side = size_t(c_.image_size), p = size_t(c_.patch_size);
    Rows x(size_t(c_.num_patches()) + 1, std::vector<double>(hidden));
    for (size_t y0 = 0; y0 < side; y0 += p)
      for (size_t x0 = 0; x0 < side; x0 += p)
        for (size_t n = 0; n < hidden; ++n)
          for (size_t channel = 0; channel < 3; ++channel)
            for (size_t i = 0; i < p; ++i)
              for (size_t j = 0; j < p; ++j)
                x[y0 / p * (side / p) + x0 / p][n] += colour(tile[((y0 + i) * side + x0 + j) * 3 + channel]) *
                                                      double(kernel[((n * 3 + channel) * p + i) * p + j]);
    for (size_t n = 0; n < hidden; ++n) x.back()[n] = at("vision.class_embedding")[n];
    for (size_t t = 0; t < x.size(); ++t)
      for (size_t n = 0; n < hidden; ++n) x[t][n] += double(position[t * hidden + n]);
    return x;
  }

  Rows layernorm(Rows x, const std::string& name) const {
    for (std::vector<double>& row : x) {
      double mean = 0, variance = 0;
      for (double v : row) mean += v / double(row.size());
      for (double v : row) variance += (v - mean) * (v - mean) / double(row.size());
      for (size_t i = 0; i < row.size(); ++i)
        row[i] =
            (row[i] - mean) / std::sqrt(variance + double(c_.norm_eps)) * double(at(name + ".weight")[i]) +
            double(at(name + ".bias")[i]);
    }
    return x;
  }

  Rows linear(const Rows& x, const std::string& name, bool bias) const {
    const std::vector<float>& w = at(name);
    const size_t k = x[0].size(), n = w.size() / k;
    Rows y(x.size(), std::vector<double>(n));
    for (size_t t = 0; t < x.size(); ++t)
      for (size_t i = 0; i < n; ++i) {
        y[t][i] = bias ? double(at(name + ".bias")[i]) : 0;
        for (size_t j = 0; j < k; ++j) y[t][i] += x[t][j] * double(w[i * k + j]);
      }
    return y;
  }

  // Pairs 0 .. D/4 - 1 of a head turn by the column, the others by the row, both counted from 1.
  void rotate(double* head, size_t t) const {
    if (t == size_t(c_.num_patches())) return;
    const int dim = c_.head_dim(), column = int(t) % c_.grid() + 1, row = int(t) / c_.grid() + 1;
    for (int pair = 0; pair < dim / 2; ++pair) {
      const int j = pair % (dim / 4);
      const double angle = (pair < dim / 4 ? column : row) * std::pow(c_.rope_theta, -2.0 * j / (dim / 2.0));
      const double re = head[2 * pair], im = head[2 * pair + 1];
      head[2 * pair] = re * std::cos(angle) - im * std::sin(angle);
      head[2 * pair + 1] = re * std::sin(angle) + im * std::cos(angle);
    }
  }

  Rows attention(const Rows& x, const std::string& name) const {
    const size_t hidden = size_t(c_.hidden_size), dim = size_t(c_.head_dim());
    Rows qkv = linear(x, name + ".qkv", true), out(x.size(), std::vector<double>(hidden));
    for (size_t t = 0; t < x.size(); ++t)
      for (size_t head = 0; head < 2 * hidden; head += dim) rotate(qkv[t].data() + head, t);
    for (size_t t = 0; t < x.size(); ++t)
      for (size_t head = 0; head < hidden; head += dim) {
        std::vector<double> p(x.size());
        double total = 0;
        for (size_t j = 0; j < x.size(); ++j) {
          double score = 0;
          for (size_t d = head; d < head + dim; ++d) score += qkv[t][d] * qkv[j][hidden + d];
          total += p[j] = std::exp(score / std::sqrt(double(dim)));
        }
        for (size_t j = 0; j < x.size(); ++j)
          for (size_t d = head; d < head + dim; ++d) out[t][d] += p[j] / total * qkv[j][2 * hidden + d];
      }
    return linear(out, name + ".o", true);
  }

  static Rows gelu(Rows x) {
    for (std::vector<double>& row : x)
      for (double& v : row) v = 0.5 * v * std::erfc(-v / std::sqrt(2.0));
    return x;
  }
  static Rows sum(Rows x, const Rows& y) {
    for (size_t t = 0; t < x.size(); ++t)
      for (size_t i = 0; i < x[t].size(); ++i) x[t][i] += y[t][i];
    return x;
  }

  const std::map<std::string, std::vector<float>>& values_;
  const VisionConfig& c_;
};

int64_t workspace_bytes(const TowerFile& tower, Device& device, int64_t tiles) {
  return measure_vision_step(*tower.file, device.traits(), tiles).workspace;
}
VisionTower tower_on(Device& device, const TowerFile& tower, int64_t max_tiles) {
  return VisionTower(device, tower.config(), tower.weights, max_tiles,
                     size_t(workspace_bytes(tower, device, max_tiles)));
}

// Features of tiles [first, first + count) by a tower with room for `max_tiles`.
Matrix encode(Device& device, const TowerFile& tower, const std::vector<uint8_t>& tiles, int64_t first,
              int64_t count, int64_t max_tiles) {
  const VisionConfig& c = tower.vision();
  const size_t tile_bytes = size_t(c.image_size * c.image_size * 3);
  VisionTower made = tower_on(device, tower, max_tiles);
  Matrix out(count * c.tokens_per_tile(), tower.config().hidden_size);
  made.encode(out.view(), std::span(tiles).subspan(size_t(first) * tile_bytes, size_t(count) * tile_bytes));
  CHECK(out.intact());
  return out;
}

struct TowerCase {
  VisionConfig config;
  int64_t tiles;
};

std::vector<TowerCase> tower_cases() {
  return {{vision_config(176, 2, 3, 28, 7), 3},  // heads of 88
          {vision_config(64, 2, 1, 8, 2), 7},
          {vision_config(24, 1, 2, 6, 3), 1},    // a single output token
          {vision_config(40, 5, 5, 60, 6), 2}};  // heads of 8, 101 rows per tile
}

}  // namespace

TEST(colours_are_rounded_as_published) {
  CHECK_EQ(colour(0), -1.0);
  CHECK_EQ(colour(127), -0.00390625);
  CHECK_EQ(colour(128), 0.0078125);
  CHECK_EQ(colour(255), 1.0);
}

TEST(agrees_with_the_plain_tower) {
  SEEDED(rng);
  for (const TowerCase& test : tower_cases()) {
    SCOPE(test.tiles, " tiles of ", test.config.grid(), "^2 patches, ", test.config.num_attention_heads,
          " heads of ", test.config.head_dim());
    const TowerFile tower(test.config, uint32_t(rng.below(1000)));
    const VisionConfig& c = tower.vision();
    const std::vector<uint8_t> tiles = random_tiles(rng, c, test.tiles);
    const PlainTower plain(tower);
    Rows expected;
    for (int64_t t = 0; t < test.tiles; ++t)
      for (std::vector<double>& row : plain.encode(tiles.data() + t * c.image_size * c.image_size * 3))
        expected.push_back(std::move(row));
    double largest = 0;
    for (const std::vector<double>& row : expected)
      for (double value : row) largest = std::max(largest, std::abs(value));
    const auto check = [&](Device& device) {
      const Matrix found = encode(device, tower, tiles, 0, test.tiles, test.tiles);
      double worst = 0;
      for (size_t i = 0; i < expected.size(); ++i)
        for (size_t j = 0; j < expected[i].size(); ++j)
          worst = std::max(worst, std::abs(double(found.row(int64_t(i))[j]) - expected[i][j]));
      CHECK_CLOSE(worst / largest, 0.0, 1e-5);
      return found;
    };
    check(reference());
    const Matrix first = check(*subjects().front().device);
    for (const Subject& s : subjects()) {
      SCOPE(s.label, " bit for bit as ", subjects().front().label);
      CHECK(encode(*s.device, tower, tiles, 0, test.tiles, test.tiles) == first);
    }
  }
}

TEST(a_tile_does_not_depend_on_its_company) {
  SEEDED(rng);
  const TowerFile tower(vision_config(64, 2, 2, 12, 3), 5);
  const int64_t tokens = tower.vision().tokens_per_tile();
  const std::vector<uint8_t> tiles = random_tiles(rng, tower.vision(), 5);
  const auto check = [&](Device& device) {
    const Matrix all = encode(device, tower, tiles, 0, 5, 5);
    for (int64_t first = 0; first < 5; ++first)
      for (int64_t count = 1; first + count <= 5; ++count)
        CHECK(encode(device, tower, tiles, first, count, count + first) ==
              all.part(first * tokens, count * tokens));
  };
  check(reference());
  for (const Subject& s : subjects()) {
    SCOPE(s.label);
    check(*s.device);
  }
}

TEST(a_tower_can_be_used_again) {
  SEEDED(rng);
  const TowerFile tower(vision_config(64, 2, 2, 12, 3), 6);
  const VisionConfig& c = tower.vision();
  const std::vector<uint8_t> tiles = random_tiles(rng, c, 3);
  const size_t tile_bytes = tiles.size() / 3;
  VisionTower reused = tower_on(*subjects().back().device, tower, 3);
  Matrix all(3 * c.tokens_per_tile(), tower.config().hidden_size);
  reused.encode(all.view(), tiles);
  for (const int64_t t : {2, 0, 1}) {
    Matrix one(c.tokens_per_tile(), tower.config().hidden_size);
    reused.encode(one.view(), std::span(tiles).subspan(size_t(t) * tile_bytes, tile_bytes));
    CHECK(one == all.part(t * c.tokens_per_tile(), c.tokens_per_tile()));
  }
}

TEST(the_workspace_is_exactly_as_large_as_needed) {
  SEEDED(rng);
  for (const TowerCase& test : tower_cases()) {
    const TowerFile tower(test.config, 1);
    const std::vector<uint8_t> tiles = random_tiles(rng, tower.vision(), test.tiles);
    VisionTower made = tower_on(*subjects().back().device, tower, test.tiles);
    Matrix out(test.tiles * tower.vision().tokens_per_tile(), tower.config().hidden_size);
    made.encode(out.view(), tiles);
    CHECK_EQ(made.workspace().peak(), made.workspace().capacity());
  }
}

TEST(refuses_other_numbers_of_pixels_or_rows) {
  SEEDED(rng);
  const TowerFile tower(vision_config(24, 1, 1, 6, 3), 1);
  const std::vector<uint8_t> tiles = random_tiles(rng, tower.vision(), 3);
  const std::span<const uint8_t> pixels(tiles);
  const size_t tile_bytes = tiles.size() / 3;
  VisionTower made = tower_on(reference(), tower, 2);
  Matrix one(1, 64), two(2, 64), three(3, 64), narrow(1, 63);
  made.encode(two.view(), pixels.first(2 * tile_bytes));
  CHECK_THROWS(kInternal, made.encode(three.view(), pixels));  // more than it has room for
  CHECK_THROWS(kInternal, made.encode(one.view(), pixels.first(tile_bytes - 1)));
  CHECK_THROWS(kInternal, made.encode(two.view(), pixels.first(tile_bytes)));
  CHECK_THROWS(kInternal, made.encode(narrow.view(), pixels.first(tile_bytes)));
  made.encode(Tensor(one.row(0), DType::kF32, {0, 64}), {});
}

TEST(lists_all_tensors_that_are_missing) {
  const TempDir dir;
  TinyEngine spec;
  spec.config.vision = vision_config(24, 1, 2, 6, 3);
  spec.left_out = {"vision.layers.1.attn.qkv.bias", "vision.projector", "vision.positional_embedding"};
  write_tiny_engine(dir / "m.l4e", spec);
  const EngineFile file(dir / "m.l4e");
  std::string message;
  try {
    VisionWeights::load(file);
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::kEngineFile);
    message = error.what();
  }
  CHECK(message.find("3 tensors do not match") != std::string::npos);
  for (const std::string& name : spec.left_out)
    CHECK(message.find(name + " is missing") != std::string::npos);

  write_tiny_engine(dir / "text.l4e");
  CHECK_THROWS(kInternal, VisionWeights::load(EngineFile(dir / "text.l4e")));
}

}  // namespace llama4rt::test
