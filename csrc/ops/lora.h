// What Ops::lora_add takes: low-rank changes of products, each for some rows of a step (docs/adapters.md).
#pragma once

#include <cstdint>
#include <vector>

#include "base/tensor.h"
#include "weights/weight.h"

namespace llama4rt {

// An adapter's change of one product out = x W^T. A fused product has several outputs side by side, each with factors
// of its own; the first factors of all lie in one matrix, so that x is read once.
struct LoraFactors {
  struct Output {
    Weight b;                  // bf16 [N, rank]
    int64_t first_rank = 0;    // of its rows of `a`
    int64_t first_column = 0;  // of `out`
    float scale = 1;
  };
  Weight a;  // bf16 [R, K]
  std::vector<Output> outputs;
};

// The rows of a step that one adapter changes.
struct LoraRows {
  const LoraFactors* factors = nullptr;
  Tensor rows;  // I32 [n], distinct, and in no other's
};

}  // namespace llama4rt
