// Batch: views of everything one step computes, as the model needs it. Built by runtime/runner/batch_builder, which
// owns the memory. It carries no requests and no sampling parameters.
//
// Two groups of layers page their keys and values apart: global layers see every earlier token, local layers
// only the tokens of their own chunk.
#pragma once

#include <vector>

#include "base/tensor.h"
#include "model/adapter.h"
#include "ops/op_types.h"

namespace llama4rt {

struct Batch {
  struct Group {
    Tensor slot_mapping;       // I64 [T] where each token's key and value go
    AttentionBatch attention;  // which keys each token sees
  };

  struct Image {
    Tensor rows;        // I32 [R] rows of the batch that show a piece of a picture
    Tensor embeddings;  // F32 [R, H] what replaces their token embeddings
  };

  struct Adapted {
    const Adapter* adapter = nullptr;
    Tensor rows;  // I32 [R] rows of the batch that it changes
  };

  int64_t num_tokens = 0;   // T
  int64_t num_outputs = 0;  // S rows whose logits are wanted
  Tensor token_ids;         // I32 [T]
  std::vector<Image> images;
  std::vector<Adapted> adapted;  // none: of no cost
  Tensor output_rows;            // I32 [S]
  Tensor rope;                   // F32 [T, D/2, 2] cos and sin, for layers that rotate
  Tensor temperature;  // F32 [T] for layers that do not; empty when the model has no temperature tuning
  Group global;        // empty when no layer is global
  Group local;         // empty when no layer is chunked
};

}  // namespace llama4rt
