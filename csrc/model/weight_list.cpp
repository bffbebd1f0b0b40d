#include "model/weight_list.h"

#include "format/layout.h"

namespace llama4rt {
namespace {

class Lister {
 public:
  explicit Lister(const WeightOptions& options) : options_(options) {}

  void plain(const std::string& name, std::vector<int64_t> shape) {
    tensors_.push_back({name, std::move(shape), {}});
  }
  void stack(const std::string& name, WeightKind kind, int64_t experts, int64_t n, int64_t k) {
    Weight w;
    w.kind = kind;
    w.layout = options_.layout;
    w.num_experts = experts;
    w.n = n;
    w.k = k;
    w.group_size = kind == WeightKind::kBF16 ? 0 : options_.group_size;
    tensors_.push_back({name, {}, w});
  }
  void matrix(const std::string& name, WeightKind kind, int64_t n, int64_t k) { stack(name, kind, 1, n, k); }
  void table(const std::string& name, int64_t n, int64_t k) {
    matrix(name, WeightKind::kBF16, n, k);
    tensors_.back().weight.layout = Layout::kRowMajor;
  }
  std::vector<ListedTensor> take() { return std::move(tensors_); }

 private:
  const WeightOptions& options_;
  std::vector<ListedTensor> tensors_;
};

void list_vision(Lister& list, const ModelConfig& config, const WeightOptions& options) {
  const VisionConfig& v = *config.vision;
  const auto matrix = [&](const std::string& name, int64_t n, int64_t k) {
    // As the converter: int8 is for matrices whose inputs are whole groups.
    const bool whole = k % options.group_size == 0;
    list.matrix(name, whole ? options.vision : WeightKind::kBF16, n, k);
  };
  const auto norm = [&](const std::string& name) {
    list.plain(name + ".weight", {v.hidden_size});
    list.plain(name + ".bias", {v.hidden_size});
  };
  const auto linear = [&](const std::string& name, int64_t n, int64_t k) {
    matrix(name, n, k);
    list.plain(name + ".bias", {n});
  };
  matrix("vision.patch_embedding", v.hidden_size, v.patch_dim());
  list.plain("vision.class_embedding", {v.hidden_size});
  list.plain("vision.positional_embedding", {v.num_patches() + 1, v.hidden_size});
  norm("vision.pre_norm");
  for (int i = 0; i < v.num_hidden_layers; ++i) {
    const std::string prefix = "vision.layers." + std::to_string(i);
    norm(prefix + ".attn_norm");
    linear(prefix + ".attn.qkv", 3 * v.hidden_size, v.hidden_size);
    linear(prefix + ".attn.o", v.hidden_size, v.hidden_size);
    norm(prefix + ".mlp_norm");
    linear(prefix + ".mlp.fc1", v.intermediate_size, v.hidden_size);
    linear(prefix + ".mlp.fc2", v.hidden_size, v.intermediate_size);
  }
  norm("vision.post_norm");
  matrix("vision.adapter.fc1", v.adapter_hidden_size, v.intermediate_size);
  matrix("vision.adapter.fc2", v.output_dim, v.adapter_hidden_size);
  matrix("vision.projector", config.hidden_size, v.output_dim);
}

}  // namespace

int64_t ListedTensor::data_bytes() const {
  if (shape.empty()) return weight.num_experts * matrix_bytes(weight.layout, weight.kind, weight.n, weight.k);
  int64_t elements = 1;
  for (const int64_t extent : shape) elements *= extent;
  return elements * int64_t(sizeof(float));
}

int64_t ListedTensor::scale_bytes() const {
  if (!shape.empty() || !weight.quantized()) return 0;
  return weight.num_experts * cpu16::matrix_scales(weight.n, weight.k, weight.group_size) *
         int64_t(dtype_size(weight.scale_dtype));
}

std::vector<ListedTensor> list_weights(const ModelConfig& c, const WeightOptions& options) {
  Lister list(options);
  const WeightKind experts = options.weights;
  const WeightKind others = options.experts_only ? WeightKind::kBF16 : options.weights;
  const auto mlp = [&](const std::string& prefix, WeightKind kind, int64_t width) {
    list.matrix(prefix + ".gate_up", kind, cpu16::gate_up_rows(width), c.hidden_size);
    list.matrix(prefix + ".down", kind, c.hidden_size, width);
  };
  list.table("embed", c.vocab_size, c.hidden_size);
  for (int l = 0; l < c.num_hidden_layers; ++l) {
    const std::string prefix = "layers." + std::to_string(l);
    list.plain(prefix + ".attn_norm", {c.hidden_size});
    list.plain(prefix + ".ffn_norm", {c.hidden_size});
    list.matrix(prefix + ".attn.qkv", others, c.q_dim() + 2 * c.kv_dim(), c.hidden_size);
    list.matrix(prefix + ".attn.o", others, c.hidden_size, c.q_dim());
    if (!c.moe_layers[size_t(l)]) {
      mlp(prefix + ".mlp", others, c.intermediate_size_mlp);
      continue;
    }
    list.matrix(prefix + ".moe.router", WeightKind::kBF16, c.num_local_experts, c.hidden_size);
    mlp(prefix + ".moe.shared", experts, c.intermediate_size);
    list.stack(prefix + ".moe.gate_up", experts, c.num_local_experts,
               cpu16::gate_up_rows(c.intermediate_size), c.hidden_size);
    list.stack(prefix + ".moe.down", experts, c.num_local_experts, c.hidden_size, c.intermediate_size);
  }
  list.plain("norm", {c.hidden_size});
  list.matrix("lm_head", options.lm_head, c.vocab_size, c.hidden_size);
  if (c.vision) list_vision(list, c, options);
  return list.take();
}

}  // namespace llama4rt
