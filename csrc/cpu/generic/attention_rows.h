// What kinds of attention share: the rows that look at one split of keys, and how their scores become weights.
#pragma once

#include <limits>

#include "cpu/generic/math.h"
#include "cpu/kernels.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

inline constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// How many keys ahead keys and values are asked for. The lines of one head lie in pieces of a block, 2 to 4
// KB, and the hardware's prefetchers stop at each; asked for into the second cache, because the few misses
// that the first one can have in flight are not enough for the bandwidth of memory.
inline constexpr int64_t kKeysAhead = 64;
// Values of so many keys stay in the first cache while they are multiplied, some dimensions at a time.
inline constexpr int64_t kValueKeys = 64;

// What to ask for instead of the keys at `key`, which is ahead of the ones being multiplied: behind the last
// keys come the first values, and of only a few keys all are on their way long since.   keys [begin, end)
template <class KeysAt, class ValuesAt>
inline auto keys_or_values(int64_t key, int64_t begin, int64_t end, const KeysAt& keys_at,
                           const ValuesAt& values_at) {
  if (key < end) return keys_at(key);
  key = begin + (key - end) / kLanes * kLanes;
  return key < end ? values_at(key) : keys_at(begin);
}

// Turns n scores into weights e^(score - maximum), in place, and the rest of the last sixteen into zeros.
inline void weigh(float* scores, int64_t n, float& maximum, float& sum) {
  const int64_t padded = (n + kLanes - 1) / kLanes * kLanes;
  for (int64_t i = n; i < padded; ++i) scores[i] = kMinusInfinity;
  Vec top = Vec::load(scores);
  for (int64_t i = kLanes; i < padded; i += kLanes) top = max(top, Vec::load(scores + i));
  maximum = reduce_max(top);
  const Vec shift = Vec::set1(maximum);
  Vec total = Vec::zero();
  for (int64_t i = 0; i < padded; i += kLanes) {
    Vec weight = exp(Vec::load(scores + i) - shift);
    if (i + kLanes > n) {
      weight.store(scores + i);
      for (int64_t j = n; j < padded; ++j) scores[j] = 0;
      weight = Vec::load(scores + i);
    }
    weight.store(scores + i);
    total = total + weight;
  }
  sum = reduce_add(total);
}

// Gives rows of a tile without keys in a split the state of nothing, and returns how many there are: the first ones.
inline int rows_without_keys(float* states, const AttentionTile& tile, int64_t split) {
  int row = 0;
  for (; row < tile.num_rows && tile.num_keys[row] <= split * kSplitKeys; ++row) {
    float* state = states + row * attention_state_floats(tile.kv->head_dim);
    state[0] = kMinusInfinity;
    state[1] = 0;
  }
  return row;
}

// Rows [row, row + kRows) of a tile, all of which see keys of the split from `begin` on.
template <int kRows>
struct SplitRows {
  // Sums of values are computed for as many rows at once as registers hold, in groups of about one size.
  static constexpr int kGroups = (kRows + kValueRows - 1) / kValueRows;
  static constexpr int kGroupRows = (kRows + kGroups - 1) / kGroups;

  float* weight[kRows];  // [kSplitKeys] scores, then weights
  float* sum[kRows];     // [round_up(D, 16)] in the row's state, behind its header
  int64_t end[kRows];    // sees keys [begin, end); ascending

  // scores: [kRows, kSplitKeys]
  SplitRows(float* states, const AttentionTile& tile, int row, int64_t begin, float* scores) {
    for (int t = 0; t < kRows; ++t) {
      weight[t] = scores + t * kSplitKeys;
      sum[t] = states + (row + t) * attention_state_floats(tile.kv->head_dim) + kStateHeader;
      const int64_t n = tile.num_keys[row + t];
      end[t] = n < begin + kSplitKeys ? n : begin + kSplitKeys;
    }
  }

  // Scores become weights, maxima and sums of weights go into the headers, sums of values become zero.
  void weigh_all(int64_t begin, int64_t head_dim) const {
    for (int t = 0; t < kRows; ++t) {
      weigh(weight[t], end[t] - begin, sum[t][-kStateHeader], sum[t][1 - kStateHeader]);
      for (int64_t d = 0; d < head_dim; d += kLanes) Vec::zero().store(sum[t] + d);
    }
  }
};

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
