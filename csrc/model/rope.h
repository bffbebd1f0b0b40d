// Numbers that depend on a token's position alone: the angles of rotary embedding and the temperature of
// layers without it. Computed on the host in double, step by step: there is no table whose size grows with
// the context.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "format/model_config.h"

namespace llama4rt {

// [D/2] radians per position of each pair, after the llama3 scaling rule. Rounded to fp32, as the model was
// trained with.
std::vector<float> rope_frequencies(const ModelConfig& config);

// out: [D/2, 2] cos and sin of position * frequency.
void rope_angles(float* out, std::span<const float> frequencies, int64_t position);

// The position that rotates a token: its place inside its chunk where every rotating layer is chunked
// (rotation is relative, and small angles are accurate at any context length), else the absolute one.
int64_t rope_position(const ModelConfig& config, int64_t position);

// Factor on the queries of layers without rotation: 1 + attn_scale * ln(1 + floor((p + 1) / floor_scale)).
// Exactly 1 before position floor_scale - 1. Note the p + 1.
float attention_temperature(const ModelConfig& config, int64_t position);

}  // namespace llama4rt
