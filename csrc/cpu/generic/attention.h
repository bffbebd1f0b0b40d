// Softmax attention of a few query rows over one split of their keys: scores of the whole split, their
// maximum, weights, then the weighted sum of values. Nothing a row may not see takes part in its result, not
// even multiplied by zero; only values that are integers, never NaN, meet an exact integer zero.
#pragma once

#include "cpu/generic/attention_float.h"
#include "cpu/generic/attention_ints.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

// Rows without keys get the state of nothing; the others go, kTokenTile at most together, to
// attend.template operator()<n>(row, begin).
template <class Attend>
inline void walk_rows(float* states, const AttentionTile& tile, int64_t split, const Attend& attend) {
  const int64_t begin = split * kSplitKeys;
  int row = rows_without_keys(states, tile, split);
  while (row < tile.num_rows) {
    const int rows = tile.num_rows - row < kTokenTile ? tile.num_rows - row : kTokenTile;
    with_token_count(rows, [&]<int kRows>() { attend.template operator()<kRows>(row, begin); });
    row += rows;
  }
}

union AttentionScratch {
  float scores[kTokenTile * kSplitKeys];
  IntScratch ints;
};
inline int64_t attention_scratch_bytes() { return int64_t(sizeof(AttentionScratch)); }

inline void attend(float* states, const AttentionTile& tile, int64_t split, std::byte* memory) {
  auto& scratch = *reinterpret_cast<AttentionScratch*>(memory);
  const auto attend_as = [&]<class Element>(Element) {
    walk_rows(states, tile, split, [&]<int kRows>(int row, int64_t begin) {
      attend_rows<Element, kRows>(states, tile, row, begin, scratch.scores);
    });
  };
  switch (tile.kv->format) {
    case KvKind::kBF16:
      return attend_as(bf16{});
    case KvKind::kF32:
      return attend_as(float{});
    case KvKind::kF8E4M3:
      return attend_as(f8e4m3{});
    case KvKind::kInt8:
      return attend_ints<Int8Ints>(states, tile, split, scratch.ints);
    case KvKind::kInt16:
      return attend_ints<Int16Ints>(states, tile, split, scratch.ints);
    case KvKind::kInt4:
      return attend_ints<Int4Ints>(states, tile, split, scratch.ints);
  }
}

inline void merge_state(float* into, const float* next, int64_t head_dim) {
  if (next[1] == 0) return;  // it saw no key
  const float maximum = into[0] > next[0] ? into[0] : next[0];
  const Vec a = exp(Vec::set1(into[0] - maximum)), b = exp(Vec::set1(next[0] - maximum));
  alignas(64) float sum[kLanes];
  fma(Vec::set1(next[1]), b, Vec::set1(into[1]) * a).store(sum);
  into[0] = maximum;
  into[1] = sum[0];
  for (int64_t d = kStateHeader; d < attention_state_floats(head_dim); d += kLanes)
    fma(Vec::load(next + d), b, Vec::load(into + d) * a).store(into + d);
}

inline void finish_state(float* out, const float* state, int64_t head_dim) {
  const Vec sum = Vec::set1(state[1]);
  for (int64_t d = 0; d < head_dim; d += kLanes) {
    const Vec y = Vec::load(state + kStateHeader + d) / sum;
    head_dim - d < kLanes ? y.store_partial(out + d, int(head_dim - d)) : y.store(out + d);
  }
}

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
