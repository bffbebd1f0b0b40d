// How linear_decode.cuh is launched: for the launchers of single matrices and of experts.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/kernels/decode_args.h"
#include "format/quant.h"

namespace llama4rt::cuda {

inline constexpr int kDecodeRows = 64;  // of a block

// Whether the kernel takes this kind of weight, of one matrix or of a stack.
bool decode_supports(const Weight& w);
DecodeMatrices decode_matrices(const Weight& w);
// Splits of K that run beside each other for so many places (tokens and slots): all, or 1 when one after the
// other is as fast, or partial sums would take too much memory. Bits do not depend on it.
int decode_parts(const Weight& w, int64_t places);
size_t decode_scratch_bytes(const Weight& w, int64_t places);
size_t decode_ticket_bytes(const Weight& w);
// Fills in what `w` says (n, k, kind of scales) and starts. `tokens` is that of the whole op.
void run_decode(Stream& stream, DecodeArgs args, const Weight& w, int64_t tokens);

}  // namespace llama4rt::cuda
