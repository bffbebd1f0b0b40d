// The tensors a model of some config has, by name, kind and shape: what `llama4rt build` makes of a
// checkpoint with the same options. For planning memory without a file, and for random weights.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "format/model_config.h"
#include "format/quant.h"

namespace llama4rt {

struct WeightOptions {  // the words of llama4rt.build
  WeightKind weights = WeightKind::kInt4;
  int group_size = 128;
  bool experts_only = false;  // quantize="experts": routed and shared experts alone
  WeightKind lm_head = WeightKind::kBF16;
  WeightKind vision = WeightKind::kBF16;
  Layout layout = Layout::kCpu16;
};

struct ListedTensor {
  std::string name;
  std::vector<int64_t> shape;  // of a plain F32 tensor; empty: a weight
  Weight weight;               // without pointers

  // Bytes of its parts: values, and for integers scales.
  int64_t data_bytes() const;
  int64_t scale_bytes() const;
};

// In the order of the model. Scales are bf16, without zero points.
std::vector<ListedTensor> list_weights(const ModelConfig& config, const WeightOptions& options);

}  // namespace llama4rt
