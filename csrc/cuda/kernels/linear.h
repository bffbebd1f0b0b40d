// Launchers of the linears with one matrix.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/tensor.h"
#include "cuda/runtime.h"
#include "ops/op_types.h"
#include "weights/weight.h"

namespace llama4rt::cuda {

// linear_decode.cuh, 8 or 16 tokens at a time: made for decode, correct for any T.
struct LinearDecode {
  // supports() and the memory it needs are inline in linear_decode.h.
  static bool supports(const Weight& w);
  // Bytes of scratch and of tickets for T tokens. Tickets must be zero before the first run; each run leaves
  // them zero.
  static size_t scratch_bytes(const Weight& w, int64_t tokens);
  static size_t most_scratch_bytes(const Weight& w, int64_t tokens);  // of so many tokens or fewer
  static size_t ticket_bytes(const Weight& w);
  // out: [T, N] (kSwiGlu: [T, F]); x: [T, K].
  static void run(Stream& stream, Tensor out, Tensor x, const Weight& w, Finish finish, void* scratch,
                  uint32_t* tickets);
};

}  // namespace llama4rt::cuda
