// How far apart two models are at the same place of a text: one row of logits of each, compared. For llama4rt
// eval, which sees chunk after chunk of both and keeps only these numbers.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/tensor.h"

namespace llama4rt {

struct RowDivergence {
  // Sum over tokens of p * (log p - log q), in nats; p of the first row, q of the second. The exponentials are
  // good to 1e-7, and so is this.
  double divergence = 0;
  float p_logprob = 0, q_logprob = 0;  // of the token that follows in the text
  int32_t p_best = -1, q_best = -1;    // the likeliest token
  bool finite = false;                 // neither row holds NaN or infinity; otherwise the rest means nothing
};

// p, q: F32 [rows, V]; next: [rows] the token that follows, each in 0..V-1. num_threads 0: all processors.
std::vector<RowDivergence> compare_logits(const Tensor& p, const Tensor& q, std::span<const int32_t> next,
                                          int num_threads);

}  // namespace llama4rt
