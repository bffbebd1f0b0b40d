// ShapeSource: the weights of a model that does not exist, by kind and shape alone, as `options` would store
// them. For plans; nothing in it has an address.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "base/error.h"
#include "format/weight_source.h"
#include "model/shape.h"

namespace llama4rt {

class ShapeSource final : public WeightSource {
 public:
  ShapeSource(const ModelConfig& config, const WeightOptions& options) : config_(config), options_(options) {
    for (TensorSpec& spec : model_tensors(config)) {
      std::string name = spec.name;
      specs_.emplace(std::move(name), std::move(spec));
    }
  }

  const std::string& path() const override { return name_; }
  const ModelConfig& config() const override { return config_; }
  Layout layout() const override { return options_.layout; }
  bool has(std::string_view name) const override { return specs_.contains(name); }
  Weight weight(std::string_view name) const override { return stored_weight(spec(name), options_); }
  Tensor tensor(std::string_view name) const override {
    const TensorSpec& s = spec(name);
    return s.role == TensorRole::kTable ? Tensor(nullptr, DType::kF32, {s.n, s.k})
                                        : Tensor(nullptr, DType::kF32, {s.n});
  }

 private:
  const TensorSpec& spec(std::string_view name) const {
    const auto at = specs_.find(name);
    LLAMA4RT_CHECK(kInternal, at != specs_.end(), "the model has no tensor ", name);
    return at->second;
  }

  const std::string name_ = "a model without a file";
  const ModelConfig config_;
  const WeightOptions options_;
  std::map<std::string, TensorSpec, std::less<>> specs_;
};

}  // namespace llama4rt
