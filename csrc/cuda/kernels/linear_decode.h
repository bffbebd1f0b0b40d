// How linear_decode.cuh is launched, for the launchers of single matrices and of experts: which weights it
// takes, how K is split over blocks, and the memory that takes. Host arithmetic only, so that a plan needs no
// CUDA.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/checked_math.h"
#include "cuda/device/split_columns.h"
#include "cuda/kernels/decode_args.h"
#include "weights/weight.h"

namespace llama4rt::cuda {

inline constexpr int kDecodeRows = 64;  // of a block
// From so many blocks of rows on, a GPU of 132 multiprocessors is full without splitting K.
inline constexpr int64_t kEnoughDecodeBlocks = 1024;
// Up to so many places (tokens and picks) the partial sums of every split are kept.
inline constexpr int64_t kMostSplitPlaces = 256;
// Tokens of one launch with a single matrix.
inline constexpr int64_t kTokensOfDecodeLaunch = 128;
inline constexpr int64_t kMostDecodeExperts = 4096;  // their offsets are in shared memory

inline int64_t num_k_splits(const Weight& w) { return ceil_div(w.k, int64_t(kSplitColumns)); }
inline int64_t decode_row_groups(const Weight& w) { return ceil_div(w.n, int64_t(kDecodeRows)); }

// Whether the kernel takes this kind of weight, of one matrix or of a stack.
inline bool decode_supports(const Weight& w) {
  if (w.layout != Layout::kCudaTile) return false;
  return w.n <= int64_t(1) << 30 && num_k_splits(w) <= 65535;
}
// Splits of K that run beside each other for so many places: all, or 1 when one after the other is as fast,
// or partial sums would take too much memory. Bits do not depend on it.
inline int64_t decode_parts(const Weight& w, int64_t places) {
  return places > kMostSplitPlaces || decode_row_groups(w) >= kEnoughDecodeBlocks ? 1 : num_k_splits(w);
}
inline size_t decode_scratch_bytes(const Weight& w, int64_t places) {
  return size_t(decode_row_groups(w) * decode_parts(w, places) * places * kDecodeRows * 4);
}
// The most that so many places or fewer take: fewer may be split where more are not.
inline size_t most_decode_scratch_bytes(const Weight& w, int64_t places) {
  return std::max(decode_scratch_bytes(w, places),
                  decode_scratch_bytes(w, std::min(places, kMostSplitPlaces)));
}
inline size_t decode_ticket_bytes(const Weight& w) { return size_t(decode_row_groups(w) * 4); }

inline bool LinearDecode::supports(const Weight& w) { return decode_supports(w) && w.num_experts == 1; }
inline size_t LinearDecode::scratch_bytes(const Weight& w, int64_t tokens) {
  return decode_scratch_bytes(w, std::min(tokens, kTokensOfDecodeLaunch));
}
inline size_t LinearDecode::most_scratch_bytes(const Weight& w, int64_t tokens) {
  return most_decode_scratch_bytes(w, std::min(tokens, kTokensOfDecodeLaunch));
}
inline size_t LinearDecode::ticket_bytes(const Weight& w) { return decode_ticket_bytes(w); }

DecodeMatrices decode_matrices(const Weight& w);
// Fills in what `w` says (n, k, kind of scales) and starts. `tokens` is that of the whole op.
void run_decode(Stream& stream, DecodeArgs args, const Weight& w, int64_t tokens);

}  // namespace llama4rt::cuda
