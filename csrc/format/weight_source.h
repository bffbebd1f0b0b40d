// WeightSource: where a model's tensors come from, by name. An engine file is one; so are the weights of such
// a file in a device's memory, and random ones (runtime/).
#pragma once

#include <string>
#include <string_view>

#include "base/tensor.h"
#include "format/model_config.h"
#include "weights/weight.h"

namespace llama4rt {

class WeightSource {
 public:
  virtual ~WeightSource() = default;

  virtual const std::string& path() const = 0;  // for messages
  virtual const ModelConfig& config() const = 0;
  virtual Layout layout() const = 0;  // of every packed weight
  virtual bool has(std::string_view name) const = 0;
  // Views that live as long as the source. Throw when there is no such thing.
  virtual Weight weight(std::string_view name) const = 0;
  virtual Tensor tensor(std::string_view name) const = 0;
};

}  // namespace llama4rt
