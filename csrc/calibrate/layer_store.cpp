#include "calibrate/layer_store.h"

#include <utility>

#include "base/error.h"

namespace llama4rt::calibrate {

ModelConfig one_layer(const ModelConfig& model, int layer) {
  LLAMA4RT_CHECK(kInternal, layer >= 0 && layer < model.num_hidden_layers, "there is no layer ", layer,
                 " among ", model.num_hidden_layers);
  ModelConfig one = model;
  one.num_hidden_layers = 1;
  one.rope_layers = {model.rope_layers[size_t(layer)]};
  one.chunked_layers = {model.chunked_layers[size_t(layer)]};
  one.moe_layers = {model.moe_layers[size_t(layer)]};
  one.vocab_size = 1;  // embeddings come from outside, and nobody asks for logits
  one.vision.reset();
  return one;
}

LayerStore::LayerStore(const ModelConfig& model, int layer)
    : name_("layer " + std::to_string(layer)), config_(one_layer(model, layer)) {
  for (TensorSpec& spec : text_tensors(config_)) {
    const std::string name = spec.name;
    if (spec.is_plain())
      plain_.emplace(name, std::vector<float>(size_t(spec.n * spec.k), 1.0f));
    else
      matrices_.emplace(name, std::make_unique<Matrix>(stored_weight(spec, {.weights = WeightKind::kBF16})));
    specs_.emplace(name, std::move(spec));
  }
}

bool LayerStore::has(std::string_view name) const { return specs_.contains(name); }

const TensorSpec& LayerStore::spec(std::string_view name) const {
  const auto at = specs_.find(name);
  LLAMA4RT_CHECK(kInternal, at != specs_.end(), name_, " has no tensor ", name);
  return at->second;
}

Matrix& LayerStore::matrix(std::string_view name) const {
  const auto at = matrices_.find(name);
  LLAMA4RT_CHECK(kInternal, at != matrices_.end(), name_, " has no matrix ", name);
  return *at->second;
}

Tensor LayerStore::tensor(std::string_view name) const {
  const auto at = plain_.find(name);
  LLAMA4RT_CHECK(kInternal, at != plain_.end(), name_, " has no plain tensor ", name);
  return Tensor(const_cast<float*>(at->second.data()), DType::kF32, {int64_t(at->second.size())});
}

std::unique_ptr<Matrix> LayerStore::replace(std::string_view name, std::unique_ptr<Matrix> matrix) {
  return std::exchange(matrices_.find(spec(name).name)->second, std::move(matrix));
}

std::span<float> LayerStore::numbers(std::string_view name) {
  const Tensor t = tensor(name);
  return {t.ptr<float>(), size_t(t.numel())};
}

}  // namespace llama4rt::calibrate
