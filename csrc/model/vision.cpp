#include "model/vision.h"

#include <array>
#include <cmath>
#include <vector>

namespace llama4rt {
namespace {

// The value the tower was trained with for each 8-bit colour: (u / 255 - 0.5) / 0.5, rounded to bf16 after
// every step, as the published processor does. 0 gives -1, 255 gives 1, 127 and 128 are not symmetric.
std::array<float, 256> colour_values() {
  std::array<float, 256> values{};
  const auto rounded = [](float x) { return to_float(to_bf16(x)); };
  for (size_t u = 0; u < values.size(); ++u)
    values[u] = rounded(2.0f * rounded(rounded(float(u) * (1.0f / 255.0f)) - 0.5f));
  return values;
}

// Pixels of one tile [S, S, 3] as rows of the patch embedding's inputs [num_patches, 3 * P * P]: patches
// row-major, inside a patch channel by channel.
void cut_patches(float* out, const uint8_t* tile, const VisionConfig& c,
                 const std::array<float, 256>& values) {
  const int64_t side = c.image_size, size = c.patch_size, grid = c.grid();
  for (int64_t patch = 0; patch < c.num_patches(); ++patch)
    for (int64_t channel = 0; channel < 3; ++channel)
      for (int64_t row = 0; row < size; ++row) {
        const uint8_t* pixel =
            tile + ((patch / grid * size + row) * side + patch % grid * size) * 3 + channel;
        for (int64_t column = 0; column < size; ++column) *out++ = values[pixel[3 * column]];
      }
}

// Angles of a patch at column X and row Y of the grid, counted from 1: the first half of a head's pairs turns
// by X f_j, the second by Y f_j, f_j = theta^(-2j / (D / 2)). The class token does not turn.
// out: [num_patches + 1, D / 2, 2]
void rope_table(float* out, const VisionConfig& c) {
  const int64_t half = c.head_dim() / 4, grid = c.grid();
  const auto turn = [&](double angle) {
    *out++ = float(std::cos(angle));
    *out++ = float(std::sin(angle));
  };
  for (int64_t patch = 0; patch < c.num_patches(); ++patch)
    for (const int64_t coordinate : {patch % grid + 1, patch / grid + 1})
      for (int64_t j = 0; j < half; ++j)
        turn(double(coordinate) * std::pow(c.rope_theta, -double(j) / double(half)));
  for (int64_t j = 0; j < 2 * half; ++j) turn(0);
}

}  // namespace

VisionTower::VisionTower(Device& device, const ModelConfig& config, const VisionWeights& weights,
                         int64_t max_tiles, size_t workspace_bytes)
    : device_(device),
      ops_(device.ops()),
      cfg_(*config.vision),
      w_(weights),
      max_tiles_(max_tiles),
      ws_(device, workspace_bytes) {
  const int64_t hidden = cfg_.hidden_size, pairs = cfg_.head_dim() / 2, grid = cfg_.grid();
  positions_.resize(size_t(w_.positional_embedding.numel()));
  class_row_.resize(size_t(hidden));
  device_.copy_to_host(positions_.data(), w_.positional_embedding.data, positions_.size() * sizeof(float));
  device_.copy_to_host(class_row_.data(), w_.class_embedding.data, class_row_.size() * sizeof(float));
  const float* const class_position = positions_.data() + cfg_.num_patches() * hidden;
  for (int64_t i = 0; i < hidden; ++i) class_row_[size_t(i)] += class_position[i];
  positions_.resize(size_t(cfg_.num_patches() * hidden));

  rope_ = ws_.take(rows_per_tile(), 2 * pairs);
  std::vector<float> angles(size_t(rope_.numel()));
  rope_table(angles.data(), cfg_);
  device_.copy_to_device(rope_.data, angles.data(), angles.size() * sizeof(float));
  rope_ = Tensor(rope_.data, DType::kF32, {rows_per_tile(), pairs, 2});

  // Pixel shuffle: an output token is a square of 2 x 2 patches, side by side.
  std::vector<int32_t> rows;
  for (int64_t tile = 0; tile < max_tiles; ++tile)
    for (int64_t y = 0; y < grid; y += 2)
      for (int64_t x = 0; x < grid; x += 2)
        for (const int64_t patch :
             {y * grid + x, y * grid + x + 1, (y + 1) * grid + x, (y + 1) * grid + x + 1})
          rows.push_back(int32_t(tile * rows_per_tile() + patch));
  shuffle_ = ws_.take_vector(DType::kI32, int64_t(rows.size()));
  device_.copy_to_device(shuffle_.data, rows.data(), rows.size() * sizeof(int32_t));
}

void VisionTower::encode(Tensor out, std::span<const uint8_t> tiles) {
  const int64_t tile_bytes = int64_t(3) * cfg_.image_size * cfg_.image_size;
  const int64_t num_tiles = int64_t(tiles.size()) / tile_bytes;
  LLAMA4RT_CHECK(kInternal, int64_t(tiles.size()) == num_tiles * tile_bytes && num_tiles <= max_tiles_,
                 "vision: ", tiles.size(), " bytes of pixels; expected at most ", max_tiles_, " tiles of ",
                 tile_bytes);
  LLAMA4RT_CHECK(kInternal, out.rank == 2 && out.size(0) == num_tiles * cfg_.tokens_per_tile(),
                 "vision: out is ", out.describe(), "; expected ", num_tiles * cfg_.tokens_per_tile(),
                 " rows");
  if (num_tiles == 0) return;
  const auto scratch = ws_.frame();
  const Tensor x = ws_.take(num_tiles * rows_per_tile(), cfg_.hidden_size);  // the residual stream
  embed(x, tiles);
  ops_.layernorm(x, x, w_.pre_norm.weight, w_.pre_norm.bias, cfg_.norm_eps);
  for (const VisionWeights::Layer& layer : w_.layers) {
    attention(x, layer);  // x += Attn(LayerNorm(x))
    mlp(x, layer);        // x += MLP(LayerNorm(x))
  }
  ops_.layernorm(x, x, w_.post_norm.weight, w_.post_norm.bias, cfg_.norm_eps);
  adapt(out, x);
}

// x = patch embedding + positional embedding; the class token comes last.
void VisionTower::embed(Tensor x, std::span<const uint8_t> tiles) {
  static const std::array<float, 256> values = colour_values();
  const auto scratch = ws_.frame();
  const int64_t num_patches = cfg_.num_patches();
  const size_t tile_bytes = size_t(3) * size_t(cfg_.image_size) * size_t(cfg_.image_size);
  const Tensor patches = ws_.take(num_patches, cfg_.patch_dim());
  std::vector<float> pixels(size_t(patches.numel()));
  for (int64_t begin = 0; begin < x.size(0); begin += rows_per_tile()) {
    const Tensor tile = x.rows(begin, num_patches);
    cut_patches(pixels.data(), tiles.data(), cfg_, values);
    tiles = tiles.subspan(tile_bytes);
    device_.copy_to_device(patches.data, pixels.data(), pixels.size() * sizeof(float));
    device_.copy_to_device(tile.data, positions_.data(), positions_.size() * sizeof(float));
    ops_.linear_add(tile, patches, w_.patch_embedding);
    device_.copy_to_device(x.row<float>(begin + num_patches), class_row_.data(),
                           class_row_.size() * sizeof(float));
  }
}

void VisionTower::attention(Tensor x, const VisionWeights::Layer& layer) {
  const auto scratch = ws_.frame();
  const int64_t hidden = cfg_.hidden_size;
  const Tensor h = ws_.take(x.size(0), hidden);
  const Tensor qkv = ws_.take(x.size(0), 3 * hidden);
  ops_.layernorm(h, x, layer.attn_norm.weight, layer.attn_norm.bias, cfg_.norm_eps);
  ops_.linear(qkv, h, layer.qkv.weight);
  ops_.add_bias(qkv, layer.qkv.bias);
  ops_.rotate_heads(qkv.columns(0, 2 * hidden), rope_);  // q and k
  ops_.tile_attention(h, qkv.columns(0, hidden), qkv.columns(hidden, hidden), qkv.columns(2 * hidden, hidden),
                      rows_per_tile(), cfg_.num_attention_heads,
                      float(1 / std::sqrt(double(cfg_.head_dim()))));
  ops_.linear_add(x, h, layer.o.weight);
  ops_.add_bias(x, layer.o.bias);
}

void VisionTower::mlp(Tensor x, const VisionWeights::Layer& layer) {
  const auto scratch = ws_.frame();
  const Tensor h = ws_.take(x.size(0), cfg_.hidden_size);
  const Tensor a = ws_.take(x.size(0), cfg_.intermediate_size);
  ops_.layernorm(h, x, layer.mlp_norm.weight, layer.mlp_norm.bias, cfg_.norm_eps);
  ops_.linear(a, h, layer.fc1.weight);
  ops_.gelu(a, layer.fc1.bias);
  ops_.linear_add(x, a, layer.fc2.weight);
  ops_.add_bias(x, layer.fc2.bias);
}

// Pixel shuffle, which leaves the class tokens behind, the adapter with its GELU after both products, and the
// projector.
void VisionTower::adapt(Tensor out, Tensor x) {
  const auto scratch = ws_.frame();
  const int64_t num_tiles = x.size(0) / rows_per_tile(), num_tokens = num_tiles * cfg_.tokens_per_tile();
  const Tensor patches = ws_.take(4 * num_tokens, cfg_.hidden_size);
  const Tensor a = ws_.take(num_tokens, cfg_.adapter_hidden_size);
  const Tensor b = ws_.take(num_tokens, cfg_.output_dim);
  ops_.gather_rows(patches, x, shuffle_.rows(0, 4 * num_tokens));
  const Tensor squares(patches.data, DType::kF32, {num_tokens, 4 * cfg_.hidden_size});
  ops_.linear(a, squares, w_.adapter_fc1);
  ops_.gelu(a, {});
  ops_.linear(b, a, w_.adapter_fc2);
  ops_.gelu(b, {});
  ops_.linear(out, b, w_.projector);
}

}  // namespace llama4rt
