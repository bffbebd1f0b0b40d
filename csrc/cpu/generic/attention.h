// Softmax attention of a few query rows over one partition of keys: scores of the whole partition, their
// maximum, weights, then the weighted sum of values. Keys and values are loaded and widened once for up to
// kTokenTile rows. Nothing a row may not see takes part in its result, not even multiplied by zero.
#pragma once

#include <limits>

#include "cpu/generic/dot.h"
#include "cpu/generic/kv_layout.h"
#include "cpu/generic/math.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

inline constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// Rows times vectors of dimensions whose sums stay in registers while values stream by.
#if defined(LLAMA4RT_ISA_AVX512)
inline constexpr int kValueRows = 5, kValueVecs = 4;
#else
inline constexpr int kValueRows = 2, kValueVecs = 2;
#endif

// out[t][key] = scale * q[t] . k[key] for keys [begin, end), begin a multiple of 16; writes whole sixteens.
template <class Element, int kRows>
inline void score_rows(const AttentionTile& tile, const float* const* q, float* const* out, int64_t begin,
                       int64_t end) {
  const KvLayer& kv = *tile.kv;
  const Vec scale = Vec::set1(tile.scale);
  const auto keys_at = [&](int64_t key) {
    const int64_t block = tile.blocks[key / kv.block_size], offset = key % kv.block_size;
    return head_of_block<Element>(kv.k, kv, block, tile.kv_head) + offset * kv.head_dim;
  };
  const Element* keys = keys_at(begin);
  for (int64_t key = begin; key < end; key += kLanes) {
    const Element* next = key + kLanes < end ? keys_at(key + kLanes) : keys;
    Vec score[kRows];
    float_block(score, keys, next, q, kv.head_dim);
    for (int t = 0; t < kRows; ++t) (score[t] * scale).store(out[t] + (key - begin));
    keys = next;
  }
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

// sum[t][d ..] += weight[t][key] * v[key][d ..] for keys [begin, end) of the block table, one key after the
// other, and kVecs * 16 dimensions from d on; `lanes` of the last sixteen exist.   weight[t][0]: key `origin`
template <class Element, int kRows, int kVecs>
inline void add_values(const AttentionTile& tile, float* const* sum, const float* const* weight,
                       int64_t origin, int64_t begin, int64_t end, int64_t d, int lanes) {
  const KvLayer& kv = *tile.kv;
  Vec acc[kRows][kVecs];
  for (int t = 0; t < kRows; ++t)
    for (int i = 0; i < kVecs; ++i) acc[t][i] = Vec::load(sum[t] + d + i * kLanes);
  for (int64_t key = begin; key < end;) {
    const int64_t block_start = key / kv.block_size * kv.block_size, next_start = block_start + kv.block_size;
    const int64_t block_end = next_start < end ? next_start : end;
    const auto* values = head_of_block<Element>(kv.v, kv, tile.blocks[key / kv.block_size], tile.kv_head);
    // The next block, as far as there is one, is asked for while this one is multiplied.
    const auto* next = next_start < end ? head_of_block<Element>(
                                              kv.v, kv, tile.blocks[next_start / kv.block_size], tile.kv_head)
                                        : values;
    for (; key < block_end; key = (key & ~int64_t(1)) + 2) {
      const int64_t pair = (key & ~int64_t(1)) - block_start;  // keys pair and pair + 1 of the block
      const bool first_half = key % 2 == 0, second_half = !first_half || key + 1 < block_end;
      Vec first[kVecs], second[kVecs];
      for (int i = 0; i < kVecs; ++i) {
        load_value_pair(first[i], second[i], values, pair, d + i * kLanes, kv.head_dim,
                        i + 1 == kVecs ? lanes : kLanes);
        prefetch(next + value_index<Element>(pair, d + i * kLanes, kv.head_dim));
        if constexpr (sizeof(Element) == 4)
          prefetch(next + value_index<Element>(pair + 1, d + i * kLanes, kv.head_dim));
      }
      const int64_t at = block_start + pair - origin;
      if (first_half)
        for (int t = 0; t < kRows; ++t) {
          const Vec w = Vec::set1(weight[t][at]);
          for (int i = 0; i < kVecs; ++i) acc[t][i] = fma(w, first[i], acc[t][i]);
        }
      if (second_half)
        for (int t = 0; t < kRows; ++t) {
          const Vec w = Vec::set1(weight[t][at + 1]);
          for (int i = 0; i < kVecs; ++i) acc[t][i] = fma(w, second[i], acc[t][i]);
        }
    }
    key = block_end;
  }
  for (int t = 0; t < kRows; ++t)
    for (int i = 0; i < kVecs; ++i) acc[t][i].store(sum[t] + d + i * kLanes);
}

// All dimensions. sum: [round_up(D, 16)] each
template <class Element, int kRows>
inline void add_all_values(const AttentionTile& tile, float* const* sum, const float* const* weight,
                           int64_t origin, int64_t begin, int64_t end) {
  if (begin >= end) return;
  const int64_t dim = tile.kv->head_dim;
  int64_t d = 0;
  for (; d + kValueVecs * kLanes <= dim; d += kValueVecs * kLanes)
    add_values<Element, kRows, kValueVecs>(tile, sum, weight, origin, begin, end, d, kLanes);
  for (; d < dim; d += kLanes)
    add_values<Element, kRows, 1>(tile, sum, weight, origin, begin, end, d,
                                  dim - d < kLanes ? int(dim - d) : kLanes);
}

// Rows [row, row + kRows) of the tile, all of which see keys of this partition.
template <class Element, int kRows>
inline void attend_rows(float* states, const AttentionTile& tile, int row, int64_t begin, float* scores) {
  const int64_t state_size = attention_state_floats(tile.kv->head_dim);
  float *weight[kRows], *sum[kRows];
  int64_t end[kRows];
  for (int t = 0; t < kRows; ++t) {
    weight[t] = scores + t * kPartitionKeys;
    sum[t] = states + (row + t) * state_size + kStateHeader;
    const int64_t n = tile.num_keys[row + t];
    end[t] = n < begin + kPartitionKeys ? n : begin + kPartitionKeys;
  }
  score_rows<Element, kRows>(tile, tile.q + row, weight, begin, end[kRows - 1]);
  for (int t = 0; t < kRows; ++t) {
    weigh(weight[t], end[t] - begin, sum[t][-kStateHeader], sum[t][1 - kStateHeader]);
    for (int64_t d = 0; d < state_size - kStateHeader; d += kLanes) Vec::zero().store(sum[t] + d);
  }
  // Keys that all rows of a group see go together; later rows then see some more of their own.
  for (int first = 0; first < kRows;) {
    constexpr int kGroups = (kRows + kValueRows - 1) / kValueRows;
    constexpr int kGroupRows = (kRows + kGroups - 1) / kGroups;
    const int rows = kRows - first < kGroupRows ? kRows - first : kGroupRows;
    with_token_count<kGroupRows>(rows, [&]<int kN>() {
      add_all_values<Element, kN>(tile, sum + first, weight + first, begin, begin, end[first]);
    });
    for (int t = first + 1; t < first + rows; ++t)
      add_all_values<Element, 1>(tile, sum + t, weight + t, begin, end[first], end[t]);
    first += rows;
  }
}

template <class Element>
inline void attend_as(float* states, const AttentionTile& tile, int64_t partition, float* scores) {
  const int64_t begin = partition * kPartitionKeys;
  int row = 0;
  for (; row < tile.num_rows && tile.num_keys[row] <= begin; ++row) {
    float* state = states + row * attention_state_floats(tile.kv->head_dim);
    state[0] = kMinusInfinity;
    state[1] = 0;
  }
  while (row < tile.num_rows) {
    const int rows = tile.num_rows - row < kTokenTile ? tile.num_rows - row : kTokenTile;
    with_token_count(rows,
                     [&]<int kRows>() { attend_rows<Element, kRows>(states, tile, row, begin, scores); });
    row += rows;
  }
}

inline int64_t attention_scratch_bytes() { return kTokenTile * kPartitionKeys * int64_t(sizeof(float)); }

inline void attend(float* states, const AttentionTile& tile, int64_t partition, std::byte* scratch) {
  auto* scores = reinterpret_cast<float*>(scratch);
  if (tile.kv->dtype == DType::kBF16)
    attend_as<bf16>(states, tile, partition, scores);
  else if (tile.kv->dtype == DType::kF8E4M3)
    attend_as<f8e4m3>(states, tile, partition, scores);
  else
    attend_as<float>(states, tile, partition, scores);
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
