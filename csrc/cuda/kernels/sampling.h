// Launcher of sampling: one token for each row of logits.
#pragma once

#include <cstddef>

#include "base/checked_math.h"
#include "base/tensor.h"
#include "cuda/runtime.h"
#include "ops/sampling.h"

namespace llama4rt::cuda {

inline constexpr int kRunTokens = 256;  // neighbouring tokens whose best is kept

struct Sample {
  static constexpr size_t kRankedBytes = 8;  // sizeof(Ranked)
  static size_t scratch_bytes(int64_t rows, int64_t vocabulary) {
    return size_t(rows * ceil_div(vocabulary, int64_t(kRunTokens))) * kRankedBytes;
  }
  static size_t ticket_bytes(int64_t rows) { return size_t(rows) * 4; }
  // logits: [S, V], overwritten. One kernel when batch.all_plain, else two.
  static void run(Stream& stream, const SampleBatch& batch, Tensor logits, void* scratch, uint32_t* tickets);
};

}  // namespace llama4rt::cuda
