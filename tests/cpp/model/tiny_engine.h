// A random Llama 4 of any small shape, written as an engine file. Used by the model and engine tests; weights
// are large enough that greedy tokens have clear winners.
#pragma once

#include <functional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "format/engine_writer.h"
#include "format/model_config.h"
#include "format/sample_engine.h"
#include "model/tiny_codes.h"
#include "weights/layout.h"

namespace llama4rt::test {

// Four layers: dense and MoE alternate; the last layer is global and does not rotate.
inline ModelConfig tiny_config() {
  ModelConfig c;
  c.architecture = "Llama4ForCausalLM";
  c.vocab_size = 96;
  c.hidden_size = 64;
  c.num_hidden_layers = 4;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.head_dim = 16;
  c.intermediate_size = 40;
  c.intermediate_size_mlp = 72;
  c.num_local_experts = 4;
  c.num_experts_per_tok = 1;
  c.rope_layers = {true, true, true, false};
  c.chunked_layers = {true, true, true, false};
  c.moe_layers = {false, true, false, true};
  c.attention_chunk_size = 64;
  c.use_qk_norm = true;
  c.rms_norm_eps = 1e-5f;
  c.rope_theta = 500000;
  c.attn_temperature_tuning = true;
  c.attn_scale = 0.1;
  c.floor_scale = 32;
  c.max_position_embeddings = 512;
  c.bos_token_id = 1;
  c.eos_token_ids = {2};
  return c;
}

inline constexpr int64_t kTinyPatchToken = 91;
inline constexpr int kTinySide =
    16;  // pixels of an image tile, which is 4 tokens: 4 x 4 patches, four to a token

// The smallest tower with more than one head.
inline VisionConfig tiny_vision_config(int layers) {
  VisionConfig v;
  v.hidden_size = 16;
  v.num_hidden_layers = layers;
  v.num_attention_heads = 2;
  v.intermediate_size = 64;
  v.adapter_hidden_size = 32;
  v.output_dim = 32;
  v.image_size = kTinySide;
  v.patch_size = 4;
  v.rope_theta = 10000;
  v.norm_eps = 1e-5f;
  v.patch_token_id = kTinyPatchToken;
  return v;
}

struct TinyEngine {
  ModelConfig config = tiny_config();
  Layout layout = Layout::kCpu16;
  WeightKind kind = WeightKind::kInt4;       // of attention, dense and expert matrices
  const cases::WeightSpec* codes = nullptr;  // they are random codes of this kind instead
  uint32_t seed = 1;
  std::set<std::string> left_out;  // tensors not written
  // Changes a tensor's values before they are stored; rows and columns as the model means them.
  std::function<void(const std::string& name, std::vector<float>& values, int64_t columns)> change;
};

// The tensors of config.vision: matrices in bf16, and float vectors and tables.
struct TinyVision {
  struct Floats {
    std::string name;
    std::vector<int64_t> shape;
    float mean;  // values are mean + 0.3 * gaussian
  };
  std::vector<Floats> floats;
  std::vector<std::pair<std::string, Weight>> weights;

  TinyVision() = default;
  explicit TinyVision(const ModelConfig& c) {
    const VisionConfig& v = *c.vision;
    const auto vector = [&](const std::string& name, int64_t size, float mean) {
      floats.push_back({name, {size}, mean});
    };
    const auto norm = [&](const std::string& name) {
      vector(name + ".weight", v.hidden_size, 1);
      vector(name + ".bias", v.hidden_size, 0);
    };
    const auto matrix = [&](const std::string& name, int64_t n, int64_t k) {
      weights.push_back({name, weight_shape(WeightKind::kBF16, 1, n, k)});
    };
    const auto linear = [&](const std::string& name, int64_t n, int64_t k) {
      matrix(name, n, k);
      vector(name + ".bias", n, 0);
    };
    const int64_t h = v.hidden_size;
    matrix("vision.patch_embedding", h, v.patch_dim());
    vector("vision.class_embedding", h, 0);
    floats.push_back({"vision.positional_embedding", {v.num_patches() + 1, h}, 0});
    norm("vision.pre_norm");
    for (int i = 0; i < v.num_hidden_layers; ++i) {
      const std::string p = "vision.layers." + std::to_string(i);
      norm(p + ".attn_norm");
      linear(p + ".attn.qkv", 3 * h, h);
      linear(p + ".attn.o", h, h);
      norm(p + ".mlp_norm");
      linear(p + ".mlp.fc1", v.intermediate_size, h);
      linear(p + ".mlp.fc2", h, v.intermediate_size);
    }
    norm("vision.post_norm");
    matrix("vision.adapter.fc1", v.adapter_hidden_size, v.intermediate_size);
    matrix("vision.adapter.fc2", v.output_dim, v.adapter_hidden_size);
    matrix("vision.projector", c.hidden_size, v.output_dim);
  }
};

inline void write_tiny_engine(const std::string& path, const TinyEngine& spec = {}) {
  const ModelConfig& c = spec.config;
  struct Planned {
    std::string name;
    Weight shape;
    int64_t gate_up_width = 0;
    const cases::WeightSpec* codes = nullptr;
  };
  std::vector<std::string> norms = {"norm"};
  std::vector<Planned> weights;
  const auto add = [&](const std::string& name, WeightKind kind, int64_t experts, int64_t n, int64_t k) {
    if (spec.codes && kind == spec.kind)
      weights.push_back({name, spec_shape(*spec.codes, experts, n, k), 0, spec.codes});
    else
      weights.push_back({name, weight_shape(kind, experts, n, k), 0});
  };
  const auto add_gate_up = [&](const std::string& name, int64_t experts, int64_t width) {
    add(name, spec.kind, experts, cpu16::gate_up_rows(width), c.hidden_size);
    weights.back().gate_up_width = width;
  };
  for (int l = 0; l < c.num_hidden_layers; ++l) {
    const std::string p = "layers." + std::to_string(l);
    norms.push_back(p + ".attn_norm");
    norms.push_back(p + ".ffn_norm");
    add(p + ".attn.qkv", spec.kind, 1, c.q_dim() + 2 * c.kv_dim(), c.hidden_size);
    add(p + ".attn.o", spec.kind, 1, c.hidden_size, c.q_dim());
    if (c.moe_layers[size_t(l)]) {
      add(p + ".moe.router", WeightKind::kBF16, 1, c.num_local_experts, c.hidden_size);
      add_gate_up(p + ".moe.shared.gate_up", 1, c.intermediate_size);
      add(p + ".moe.shared.down", spec.kind, 1, c.hidden_size, c.intermediate_size);
      add_gate_up(p + ".moe.gate_up", c.num_local_experts, c.intermediate_size);
      add(p + ".moe.down", spec.kind, c.num_local_experts, c.hidden_size, c.intermediate_size);
    } else {
      add_gate_up(p + ".mlp.gate_up", 1, c.intermediate_size_mlp);
      add(p + ".mlp.down", spec.kind, 1, c.hidden_size, c.intermediate_size_mlp);
    }
  }
  add("lm_head", WeightKind::kBF16, 1, c.vocab_size, c.hidden_size);
  TinyVision vision = c.vision ? TinyVision(c) : TinyVision();
  for (const auto& [name, shape] : vision.weights) weights.push_back({name, shape, 0});
  std::erase_if(vision.floats, [&](const auto& tensor) { return spec.left_out.contains(tensor.name); });
  std::erase_if(norms, [&](const std::string& name) { return spec.left_out.contains(name); });
  std::erase_if(weights, [&](const Planned& w) { return spec.left_out.contains(w.name); });

  EngineWriter writer(path, 1, spec.layout);
  writer.declare_tensor("embed", "BF16", {c.vocab_size, c.hidden_size});
  for (const std::string& name : norms) writer.declare_tensor(name, "F32", {c.hidden_size});
  for (const auto& tensor : vision.floats) writer.declare_tensor(tensor.name, "F32", tensor.shape);
  for (const Planned& w : weights)
    writer.declare_weight(w.name, w.shape, w.codes && w.codes->zeros, w.codes && w.codes->offsets);
  writer.begin();

  uint32_t seed = spec.seed * 1000;
  const auto changed = [&](const std::string& name, std::vector<float> values, int64_t columns) {
    if (spec.change) spec.change(name, values, columns);
    return values;
  };
  for (const std::string& name : norms) {
    const auto values = changed(name, std::vector<float>(size_t(c.hidden_size), 1.0f), 1);
    writer.write_tensor(name, std::as_bytes(std::span(values)));
  }
  for (const auto& tensor : vision.floats) {
    int64_t size = 1;
    for (int64_t n : tensor.shape) size *= n;
    std::vector<float> values = gaussian(size_t(size), seed++, 0.3f);
    for (float& value : values) value += tensor.mean;
    values = changed(tensor.name, values, tensor.shape.back());
    writer.write_tensor(tensor.name, std::as_bytes(std::span(values)));
  }
  const auto table =
      changed("embed", gaussian(size_t(c.vocab_size * c.hidden_size), seed++, 1.0f), c.hidden_size);
  writer.quantize_rows("embed", 0, row_range(0, c.vocab_size), source_of(table, c.vocab_size, c.hidden_size));
  for (const Planned& w : weights) {
    const int64_t k = w.shape.k;
    const float sigma = 1.5f / std::sqrt(float(k));
    for (int64_t expert = 0; expert < w.shape.num_experts; ++expert) {
      const auto write = [&](const std::vector<int64_t>& rows) {
        if (w.codes) {
          const TinyCodes codes(*w.codes, seed++, int64_t(rows.size()), k, sigma);
          return writer.import_rows(w.name, expert, rows, codes.view(), w.codes->scales);
        }
        const auto values = changed(w.name, gaussian(rows.size() * size_t(k), seed++, sigma), k);
        writer.quantize_rows(w.name, expert, rows, source_of(values, int64_t(rows.size()), k));
      };
      if (w.gate_up_width == 0) {
        write(row_range(0, w.shape.n));
        continue;
      }
      std::vector<int64_t> gate, up;
      for (int64_t f = 0; f < w.gate_up_width; ++f) {
        gate.push_back(cpu16::gate_row(f));
        up.push_back(cpu16::up_row(f));
      }
      write(gate);
      write(up);
    }
  }
  auto metadata = sample_metadata();
  for (auto& [key, value] : metadata) {
    if (key == "config") value = c.to_json();
    if (key == "files") value = "[]";
    if (key == "target") value = engine_format::target_of_layout(spec.layout);
    if (key == "layout") value = layout_name(spec.layout);
  }
  writer.finish(metadata);
}

}  // namespace llama4rt::test
