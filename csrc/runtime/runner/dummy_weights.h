// DummyWeights: random weights of any config, made in the memory of a device. They stand for a real model
// where only shapes matter: speed and memory. Every value is finite and of a size that keeps activations
// finite.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "format/weight_source.h"
#include "model/shape.h"
#include "ops/device.h"

namespace llama4rt {

class DummyWeights final : public WeightSource {
 public:
  // `device` outlives the weights. options.layout must be the device's.
  DummyWeights(const ModelConfig& config, const WeightOptions& options, Device& device);
  ~DummyWeights() override;
  DummyWeights(const DummyWeights&) = delete;
  DummyWeights& operator=(const DummyWeights&) = delete;

  const std::string& path() const override { return name_; }
  const ModelConfig& config() const override { return config_; }
  Layout layout() const override { return layout_; }
  bool has(std::string_view name) const override {
    return weights_.contains(name) || tensors_.contains(name);
  }
  Weight weight(std::string_view name) const override;
  Tensor tensor(std::string_view name) const override;

  // Bytes of the allocation.
  static int64_t bytes(const ModelConfig& config, const WeightOptions& options);

 private:
  const std::string name_ = "random weights";
  const ModelConfig config_;
  const Layout layout_;
  Device& device_;
  int64_t bytes_ = 0;
  char* base_ = nullptr;
  std::map<std::string, Weight, std::less<>> weights_;
  std::map<std::string, Tensor, std::less<>> tensors_;
};

}  // namespace llama4rt
