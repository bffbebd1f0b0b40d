// ModelConfig: the numbers of one Llama 4, in Hugging Face's names, validated. Parsed from the canonical JSON
// that the engine builder writes (docs/engine-file.md); the converter knows the many spellings found in
// checkpoints.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace llama4rt {

struct RopeScaling {  // the llama3 rule
  double factor = 1;
  double low_freq_factor = 1;
  double high_freq_factor = 1;
  double original_max_position_embeddings = 0;
};

// The vision tower, its adapter and projector. A picture is cut into square tiles; a tile into patches.
struct VisionConfig {
  int64_t hidden_size = 0;  // Hv
  int num_hidden_layers = 0;
  int num_attention_heads = 0;
  int64_t intermediate_size = 0;    // width of the MLP, and inputs of the adapter: 4 * Hv
  int64_t adapter_hidden_size = 0;  // rows of the adapter's fc1 (projector_input_dim)
  int64_t output_dim = 0;           // rows of the adapter's fc2 = inputs of the projector (vision_output_dim)
  int image_size = 0;               // S, pixels: side of a tile
  int patch_size = 0;               // P, pixels; S / P is even
  double rope_theta = 0;
  float norm_eps = 0;
  int64_t patch_token_id = -1;  // <|patch|>, whose embedding is replaced by a row of the projector's output

  int head_dim() const { return int(hidden_size / num_attention_heads); }  // a multiple of 4
  int grid() const { return image_size / patch_size; }                     // patches along a side
  int64_t num_patches() const { return int64_t(grid()) * grid(); }         // of a tile
  // Pixel shuffle makes one token of 2 x 2 patches.
  int64_t tokens_per_tile() const { return num_patches() / 4; }
  int64_t patch_dim() const { return int64_t(3) * patch_size * patch_size; }  // numbers of one patch
};

struct ModelConfig {
  std::string architecture;
  int64_t vocab_size = 0;             // V
  int64_t hidden_size = 0;            // H
  int num_hidden_layers = 0;          // L
  int num_attention_heads = 0;        // Hq
  int num_key_value_heads = 0;        // Hkv
  int head_dim = 0;                   // D, even
  int64_t intermediate_size = 0;      // F: width of a routed expert and of the shared expert
  int64_t intermediate_size_mlp = 0;  // width of a dense layer's MLP
  int num_local_experts = 0;          // E; 0 when no layer is MoE
  int num_experts_per_tok = 0;        // K
  std::vector<bool> rope_layers;      // [L] true where the layer rotates q and k
  std::vector<bool> chunked_layers;   // [L] true where attention stays inside the token's chunk
  std::vector<bool> moe_layers;       // [L]
  int64_t attention_chunk_size = 0;   // C in tokens; 0: no chunked layer
  bool use_qk_norm = false;           // unit RMS of q and k after rotation, on rope layers
  float rms_norm_eps = 0;
  double rope_theta = 0;
  bool has_rope_scaling = false;
  RopeScaling rope_scaling;
  bool attn_temperature_tuning = false;  // on layers without rope
  double attn_scale = 0;
  double floor_scale = 0;  // tokens
  int64_t max_position_embeddings = 0;
  bool tie_word_embeddings = false;
  int64_t bos_token_id = -1;
  std::vector<int64_t> eos_token_ids;
  std::optional<VisionConfig> vision;  // empty: text only

  int64_t q_dim() const { return int64_t(num_attention_heads) * head_dim; }
  int64_t kv_dim() const { return int64_t(num_key_value_heads) * head_dim; }
  // True when RoPE may use positions inside the chunk: every rotating layer is chunked (rotation is
  // relative).
  bool local_rope_positions() const;

  // Throws kConfig naming the field, the value and what is allowed.
  static ModelConfig from_json(const std::string& text);
  std::string to_json() const;
};

}  // namespace llama4rt
