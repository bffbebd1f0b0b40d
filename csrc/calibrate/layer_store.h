// LayerStore: the tensors of one layer in memory, as the weights of a model that has this layer alone. So the text
// decoder (model/llama4.h) runs a layer of a checkpoint that as a whole would not fit into memory.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "calibrate/matrix.h"
#include "format/weight_source.h"
#include "model/shape.h"

namespace llama4rt::calibrate {

// The model that has layer `layer` alone, and one token.
ModelConfig one_layer(const ModelConfig& model, int layer);

class LayerStore final : public WeightSource {
 public:
  // Matrices are bf16 zeros, norms 1.
  LayerStore(const ModelConfig& model, int layer);

  // --- WeightSource, of the model with one layer: "layers.0.attn.qkv"
  const std::string& path() const override { return name_; }
  const ModelConfig& config() const override { return config_; }
  Layout layout() const override { return Layout::kCpu16; }
  bool has(std::string_view name) const override;
  Weight weight(std::string_view name) const override { return matrix(name).view(); }
  Tensor tensor(std::string_view name) const override;

  const TensorSpec& spec(std::string_view name) const;
  Matrix& matrix(std::string_view name) const;
  // Takes the place of the matrix of this name, which is returned.
  std::unique_ptr<Matrix> replace(std::string_view name, std::unique_ptr<Matrix> matrix);
  std::span<float> numbers(std::string_view name);  // of a plain tensor

 private:
  const std::string name_;
  const ModelConfig config_;
  std::map<std::string, TensorSpec, std::less<>> specs_;
  std::map<std::string, std::unique_ptr<Matrix>, std::less<>> matrices_;
  std::map<std::string, std::vector<float>, std::less<>> plain_;
};

}  // namespace llama4rt::calibrate
