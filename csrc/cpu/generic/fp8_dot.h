// The inner product of fp8 (e4m3) lines of weights with fp32 activations, group by group. As in dot.h: one block of 16
// rows, kTokens rows of activations at once, and bits that do not depend on kTokens.
#pragma once

#include "cpu/generic/dot.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

// sum[t] = sum over groups, in order, of scale * (sum over even k, plus sum over odd k, each ascending).
// x[t]: [num_k]
// Lanes are pairs of (row, k even or odd) until a group ends: a row of activations is then read two at a time, and what
// x86 widens at once stays together.
template <int kTokens>
LLAMA4RT_INLINE void fp8_block(Vec (&sum)[kTokens], const IntBlock& block, const float* const* x,
                               int64_t num_k) {
  constexpr int64_t kPerLine = cpu16::values_per_word(WeightKind::kFp8);
  const float* row[kTokens];
  for (int t = 0; t < kTokens; ++t) {
    row[t] = x[t];
    sum[t] = Vec::zero();
  }
  const uint8_t* line = block.lines;
  int64_t group = 0;
  for (int64_t begin = 0; begin < num_k; begin += block.group_size, ++group) {
    const int64_t end = begin + block.group_size < num_k ? begin + block.group_size : num_k;
    Vec low[kTokens], high[kTokens];  // rows 0 to 7, and 8 to 15
    for (int t = 0; t < kTokens; ++t) low[t] = high[t] = Vec::zero();
    const auto add_line = [&](const float* const* from, int64_t k) LLAMA4RT_INLINE_LAMBDA {
      Vec w[4];
      widen_f8_line(w, line);
      prefetch(line + kPrefetchBytes);
      for (int t = 0; t < kTokens; ++t)
        for (int j = 0; j < 2; ++j) {
          const Vec pair = Vec::set1_pair(from[t] + k + 2 * j);
          low[t] = fma(w[2 * j], pair, low[t]);
          high[t] = fma(w[2 * j + 1], pair, high[t]);
        }
      line += cpu16::kLineBytes;
    };
    int64_t k = begin;
    for (; k + kPerLine <= end; k += kPerLine) add_line(row, k);
    if (k < end) {  // the last line of all: behind it there may be no memory
      float last[kTokens][kPerLine] = {};
      const float* from[kTokens];
      for (int t = 0; t < kTokens; ++t) {
        std::memcpy(last[t], row[t] + k, size_t(end - k) * sizeof(float));
        from[t] = last[t];
      }
      add_line(from, 0);
    }
    const Vec scale = block.scale(group) * Vec::set1(0x1p8f);
    for (int t = 0; t < kTokens; ++t) sum[t] = fma(sum_pairs(low[t], high[t]), scale, sum[t]);
  }
}

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
