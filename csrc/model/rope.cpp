#include "model/rope.h"

#include <cmath>
#include <numbers>

namespace llama4rt {
namespace {

// Short wavelengths are kept, long ones stretched by `factor`, and those between are blended. Scout's
// configuration has low == high: a band of zero width, where blending would divide by zero.
double llama3_scaled(double frequency, const RopeScaling& s) {
  const double wavelength = 2 * std::numbers::pi / frequency;
  const double shortest = s.original_max_position_embeddings / s.high_freq_factor;
  const double longest = s.original_max_position_embeddings / s.low_freq_factor;
  if (wavelength > longest) return frequency / s.factor;
  if (wavelength < shortest || s.high_freq_factor == s.low_freq_factor) return frequency;
  const double kept = (s.original_max_position_embeddings / wavelength - s.low_freq_factor) /
                      (s.high_freq_factor - s.low_freq_factor);
  return (1 - kept) * frequency / s.factor + kept * frequency;
}

}  // namespace

std::vector<float> rope_frequencies(const ModelConfig& config) {
  std::vector<float> frequencies(size_t(config.head_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const float base = float(std::pow(config.rope_theta, -2.0 * double(i) / config.head_dim));
    frequencies[i] = config.has_rope_scaling ? float(llama3_scaled(double(base), config.rope_scaling)) : base;
  }
  return frequencies;
}

void rope_angles(float* out, std::span<const float> frequencies, int64_t position) {
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double angle = double(position) * double(frequencies[i]);
    out[2 * i] = float(std::cos(angle));
    out[2 * i + 1] = float(std::sin(angle));
  }
}

int64_t rope_position(const ModelConfig& config, int64_t position) {
  return config.local_rope_positions() ? position % config.attention_chunk_size : position;
}

float attention_temperature(const ModelConfig& config, int64_t position) {
  const double step = std::floor(double(position + 1) / config.floor_scale);
  return float(1 + config.attn_scale * std::log1p(step));
}

}  // namespace llama4rt
