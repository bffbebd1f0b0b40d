// Launchers of the linears of routed experts.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/tensor.h"
#include "cuda/kernels/linear_decode.h"
#include "cuda/runtime.h"
#include "ops/op_types.h"
#include "weights/weight.h"

namespace llama4rt::cuda {

// Experts of a few tokens each, read once: made for decode, correct for any T. A shared expert of the same kind
// of weight goes in the same launch. Grids depend on T, not on the routing.
struct ExpertsDecode {
  static bool supports(const Weight& experts) {
    return decode_supports(experts) && experts.num_experts <= kMostDecodeExperts;
  }
  // Whether `shared` can go in the launch of `experts`.
  static bool same_kind(const Weight& e, const Weight& s) {
    return s.kind == e.kind && s.layout == e.layout && s.group_size == e.group_size && s.n == e.n &&
           s.k == e.k && (s.zeros != nullptr) == (e.zeros != nullptr) && s.scale_dtype == e.scale_dtype &&
           (s.offsets != nullptr) == (e.offsets != nullptr) && s.table == e.table;
  }
  // Bytes of scratch and of tickets for T tokens, with or without a shared expert.
  static size_t scratch_bytes(const Weight& experts, int64_t tokens, int64_t top_k, bool shared) {
    return decode_scratch_bytes(experts, tokens * top_k + (shared ? tokens : 0));
  }
  static size_t ticket_bytes(const Weight& experts) { return decode_ticket_bytes(experts); }

  // The shared expert's part; no weight: none.
  struct Shared {
    Weight weight;
    Tensor a;  // [T, F]: gate_up's output, down's input
  };
  // a: [T * K, F]; h: [T, H].
  static void gate_up(Stream& stream, Tensor a, Tensor h, const Weight& experts, const Routing& routing,
                      const Shared& shared, void* scratch, uint32_t* tickets);
  // x: [T, H] += shared, then += the sum of the routed; a: [T * K, F].
  static void down_add(Stream& stream, Tensor x, Tensor a, const Weight& experts, const Routing& routing,
                       const Shared& shared, void* scratch, uint32_t* tickets);
};

}  // namespace llama4rt::cuda
