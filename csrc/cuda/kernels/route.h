// Launcher of the router: logits, top-k, sigmoid and counting sort, all on the device.
#pragma once

#include <cstddef>

#include "base/checked_math.h"
#include "base/tensor.h"
#include "cuda/runtime.h"
#include "ops/op_types.h"
#include "weights/weight.h"

namespace llama4rt::cuda {

// Up to kFusedPicks picks (tokens times top_k) take one kernel, more take three. Every number is the same
// either way.
struct Route {
  static constexpr int kFusedPicks = 512;
  static constexpr int kMaxTopK = 256;
  // Empty when the kernels can do it, else why not.
  static const char* refusal(const Weight& router, int64_t top_k);
  static constexpr int kSortThreads = 256;
  static int64_t sort_blocks(int64_t tokens, int64_t top_k) { return ceil_div(tokens, kSortThreads / top_k); }
  // Grows with each of the three.
  static size_t scratch_bytes(int64_t tokens, int64_t experts, int64_t top_k) {
    if (tokens * top_k <= kFusedPicks) return 0;
    return size_t(sort_blocks(tokens, top_k) * experts) * 4;
  }
  static size_t ticket_bytes() { return 4; }
  // h: [T, H]; router: bf16 kCudaTile [E, H]; logits: [T, E], written; the parts of `routing` are contiguous.
  static void run(Stream& stream, const Routing& routing, Tensor logits, Tensor h, const Weight& router,
                  void* scratch, uint32_t* tickets);
};

}  // namespace llama4rt::cuda
