// Llama4Weights: every matrix of the model as a view into a WeightSource, such as an engine file, under the
// names of the architecture. Nothing is copied or repacked.
#pragma once

#include <optional>
#include <vector>

#include "base/tensor.h"
#include "format/weight_source.h"
#include "weights/weight.h"

namespace llama4rt {

struct Llama4Weights {
  struct Mlp {
    Weight gate_up;  // [gate_up_rows(F), H], gate and up rows interleaved in blocks of 16
    Weight down;     // [H, F]
  };
  struct Moe {
    Weight router;  // [E, H]
    Mlp shared;     // the expert every token passes through
    Mlp experts;    // stacks of E
  };
  struct Layer {
    Tensor attn_norm;  // F32 [H]
    Tensor ffn_norm;   // F32 [H]
    Weight qkv;        // [q_dim + 2 kv_dim, H], rows q, k, v
    Weight o;          // [H, q_dim]
    Mlp mlp;           // of a dense layer
    std::optional<Moe> moe;
  };

  Weight embed;    // row-major [V, H]
  Tensor norm;     // F32 [H]
  Weight lm_head;  // [V, H]
  std::vector<Layer> layers;

  // The views live as long as `source`. Throws kEngineFile with one line for every tensor that is missing or
  // has another shape than the config implies.
  static Llama4Weights load(const WeightSource& source);
};

}  // namespace llama4rt
