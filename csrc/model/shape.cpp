#include "model/shape.h"

#include <utility>

#include "base/error.h"
#include "weights/layout.h"

namespace llama4rt {
namespace {

class List {
 public:
  // A matrix [rows of all parts, k], split by rows.
  void matrix(const std::string& name, TensorRole role, std::vector<TensorPart> parts, int64_t k,
              int64_t experts = 1) {
    int64_t n = 0;
    for (const TensorPart& part : parts) n += part.rows;
    tensors_.push_back({name, role, experts, n, k, std::move(parts),
                        role == TensorRole::kExperts ? ShardAxis::kExperts : ShardAxis::kRows});
  }
  void matrix(const std::string& name, TensorRole role, int64_t n, int64_t k, int64_t experts = 1) {
    matrix(name, role, std::vector<TensorPart>{{"", n}}, k, experts);
  }
  // gate and up of `width` rows each, and down.
  void mlp(const std::string& prefix, TensorRole role, int64_t width, int64_t hidden, int64_t experts = 1) {
    matrix(prefix + ".gate_up", role, {{"gate", width}, {"up", width}}, hidden, experts);
    tensors_.back().n = cpu16::gate_up_rows(width);
    matrix(prefix + ".down", role, hidden, width, experts);
  }
  void plain(const std::string& name, TensorRole role, std::vector<TensorPart> parts, int64_t k = 1) {
    matrix(name, role, std::move(parts), k);
    tensors_.back().shard = ShardAxis::kNone;
  }
  void plain(const std::string& name, TensorRole role, int64_t n, int64_t k = 1) {
    plain(name, role, std::vector<TensorPart>{{"", n}}, k);
  }
  std::vector<TensorSpec> take() { return std::move(tensors_); }

 private:
  std::vector<TensorSpec> tensors_;
};

}  // namespace

const char* role_name(TensorRole role) {
  switch (role) {
    case TensorRole::kEmbed:
      return "embed";
    case TensorRole::kRouter:
      return "router";
    case TensorRole::kLmHead:
      return "lm_head";
    case TensorRole::kAttention:
      return "attention";
    case TensorRole::kDense:
      return "dense";
    case TensorRole::kShared:
      return "shared";
    case TensorRole::kExperts:
      return "experts";
    case TensorRole::kVision:
      return "vision";
    case TensorRole::kNorm:
      return "norm";
    case TensorRole::kVector:
      return "vector";
    case TensorRole::kTable:
      return "table";
  }
  return "";
}

const char* shard_axis_name(ShardAxis axis) {
  switch (axis) {
    case ShardAxis::kNone:
      return "none";
    case ShardAxis::kRows:
      return "rows";
    case ShardAxis::kExperts:
      return "experts";
  }
  return "";
}

std::vector<int64_t> TensorSpec::plain_shape() const {
  return role == TensorRole::kTable ? std::vector{n, k} : std::vector{n};
}

int64_t TensorSpec::stored_row(size_t part, int64_t row) const {
  if (interleaved()) return part == 0 ? cpu16::gate_row(row) : cpu16::up_row(row);
  for (size_t i = 0; i < part; ++i) row += parts[i].rows;
  return row;
}

std::vector<TensorSpec> text_tensors(const ModelConfig& c) {
  List list;
  const int64_t hidden = c.hidden_size;
  list.matrix("embed", TensorRole::kEmbed, c.vocab_size, hidden);
  for (int l = 0; l < c.num_hidden_layers; ++l) {
    const std::string layer = "layers." + std::to_string(l);
    list.plain(layer + ".attn_norm", TensorRole::kNorm, hidden);
    list.plain(layer + ".ffn_norm", TensorRole::kNorm, hidden);
    list.matrix(layer + ".attn.qkv", TensorRole::kAttention,
                {{"q", c.q_dim()}, {"k", c.kv_dim()}, {"v", c.kv_dim()}}, hidden);
    list.matrix(layer + ".attn.o", TensorRole::kAttention, hidden, c.q_dim());
    if (!c.moe_layers[size_t(l)]) {
      list.mlp(layer + ".mlp", TensorRole::kDense, c.intermediate_size_mlp, hidden);
      continue;
    }
    list.matrix(layer + ".moe.router", TensorRole::kRouter, c.num_local_experts, hidden);
    list.mlp(layer + ".moe.shared", TensorRole::kShared, c.intermediate_size, hidden);
    list.mlp(layer + ".moe", TensorRole::kExperts, c.intermediate_size, hidden, c.num_local_experts);
  }
  list.plain("norm", TensorRole::kNorm, hidden);
  list.matrix("lm_head", TensorRole::kLmHead, c.vocab_size, hidden);
  return list.take();
}

std::vector<TensorSpec> vision_tensors(const ModelConfig& config) {
  LLAMA4RT_CHECK(kInternal, config.vision, "this config has no vision tower");
  const VisionConfig& v = *config.vision;
  const int64_t hidden = v.hidden_size;
  List list;
  const auto norm = [&](const std::string& name) {
    list.plain(name + ".weight", TensorRole::kVector, hidden);
    list.plain(name + ".bias", TensorRole::kVector, hidden);
  };
  const auto linear = [&](const std::string& name, const std::vector<TensorPart>& parts, int64_t k) {
    list.matrix(name, TensorRole::kVision, parts, k);
    list.plain(name + ".bias", TensorRole::kVector, parts);
  };
  list.matrix("vision.patch_embedding", TensorRole::kVision, hidden, v.patch_dim());
  list.plain("vision.class_embedding", TensorRole::kVector, hidden);
  list.plain("vision.positional_embedding", TensorRole::kTable, v.num_patches() + 1, hidden);
  norm("vision.pre_norm");
  for (int l = 0; l < v.num_hidden_layers; ++l) {
    const std::string layer = "vision.layers." + std::to_string(l);
    norm(layer + ".attn_norm");
    linear(layer + ".attn.qkv", {{"q", hidden}, {"k", hidden}, {"v", hidden}}, hidden);
    linear(layer + ".attn.o", {{"", hidden}}, hidden);
    norm(layer + ".mlp_norm");
    linear(layer + ".mlp.fc1", {{"", v.intermediate_size}}, hidden);
    linear(layer + ".mlp.fc2", {{"", hidden}}, v.intermediate_size);
  }
  norm("vision.post_norm");
  list.matrix("vision.adapter.fc1", TensorRole::kVision, v.adapter_hidden_size, v.intermediate_size);
  list.matrix("vision.adapter.fc2", TensorRole::kVision, v.output_dim, v.adapter_hidden_size);
  list.matrix("vision.projector", TensorRole::kVision, config.hidden_size, v.output_dim);
  return list.take();
}

std::vector<TensorSpec> model_tensors(const ModelConfig& config) {
  std::vector<TensorSpec> tensors = text_tensors(config);
  if (!config.vision) return tensors;
  for (TensorSpec& spec : vision_tensors(config)) tensors.push_back(std::move(spec));
  return tensors;
}

namespace {

WeightKind stored_kind(const TensorSpec& spec, const WeightOptions& options) {
  switch (spec.role) {
    case TensorRole::kExperts:
    case TensorRole::kShared:
      return options.weights;
    case TensorRole::kAttention:
    case TensorRole::kDense:
      return options.experts_only ? WeightKind::kBF16 : options.weights;
    case TensorRole::kLmHead:
      return options.lm_head;
    case TensorRole::kVision:  // matrices of the tower are quantised only where K is whole groups
      return spec.k % options.group_size == 0 ? options.vision : WeightKind::kBF16;
    case TensorRole::kEmbed:
    case TensorRole::kRouter:
    case TensorRole::kNorm:
    case TensorRole::kVector:
    case TensorRole::kTable:
      return WeightKind::kBF16;
  }
  __builtin_unreachable();
}

}  // namespace

Weight stored_weight(const TensorSpec& spec, const WeightOptions& options) {
  LLAMA4RT_CHECK(kInternal, !spec.is_plain(), spec.name, " is stored as plain numbers, not as a weight");
  Weight w;
  w.kind = stored_kind(spec, options);
  w.layout = spec.role == TensorRole::kEmbed ? Layout::kRowMajor : options.layout;
  w.num_experts = spec.experts;
  w.n = spec.n;
  w.k = spec.k;
  w.group_size = w.quantized() ? options.group_size : 0;
  return w;
}

TensorBytes stored_bytes(const TensorSpec& spec, const WeightOptions& options) {
  if (spec.is_plain()) return {.data = spec.n * spec.k * int64_t(sizeof(float)), .scales = 0};
  const Weight w = stored_weight(spec, options);
  TensorBytes bytes{.data = w.num_experts * matrix_bytes(w.layout, w.kind, w.n, w.k), .scales = 0};
  if (w.quantized())
    bytes.scales =
        w.num_experts * cpu16::matrix_scales(w.n, w.k, w.group_size) * int64_t(dtype_size(w.scale_dtype));
  return bytes;
}

}  // namespace llama4rt
