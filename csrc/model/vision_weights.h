// VisionWeights: every tensor of the vision tower, its adapter and projector as a view into a WeightSource,
// like Llama4Weights. Letters as in format/model_config.h: Hv width of the tower, H of the decoder.
#pragma once

#include <vector>

#include "base/tensor.h"
#include "format/weight_source.h"
#include "weights/weight.h"

namespace llama4rt {

struct VisionWeights {
  struct Norm {
    Tensor weight, bias;  // F32 [Hv]
  };
  struct Linear {
    Weight weight;  // [N, K]
    Tensor bias;    // F32 [N]
  };
  struct Layer {
    Norm attn_norm, mlp_norm;
    Linear qkv;  // [3 Hv, Hv], rows q, k, v
    Linear o;    // [Hv, Hv]
    Linear fc1;  // [intermediate_size, Hv]
    Linear fc2;  // [Hv, intermediate_size]
  };

  Weight patch_embedding;       // [Hv, patch_dim]; inputs channel by channel, then rows, then columns
  Tensor class_embedding;       // F32 [Hv]
  Tensor positional_embedding;  // F32 [num_patches + 1, Hv]; the last row is the class token's
  Norm pre_norm;
  std::vector<Layer> layers;
  Norm post_norm;
  Weight adapter_fc1;  // [adapter_hidden_size, intermediate_size]
  Weight adapter_fc2;  // [output_dim, adapter_hidden_size]
  Weight projector;    // [H, output_dim]

  // The views live as long as `source`, whose config must have a vision part. Throws kEngineFile with one
  // line for every tensor that is missing or has another shape than the config implies.
  static VisionWeights load(const WeightSource& source);
};

}  // namespace llama4rt
