// Attention over keys and values that are floats: fp32, bf16 or fp8. They are loaded and widened once for up
// to kTokenTile rows.
#pragma once

#include "base/checked_math.h"
#include "cpu/generic/attention_rows.h"
#include "cpu/generic/dot.h"
#include "cpu/generic/kv_layout.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

// out[t][key] = scale * q[t] . k[key] for keys [begin, end), begin a multiple of 16; writes whole sixteens.
template <class Element, int kRows>
inline void score_rows(const AttentionTile& tile, const float* const* q, float* const* out, int64_t begin,
                       int64_t end) {
  const KvLayer& kv = *tile.kv;
  const Vec scale = Vec::set1(tile.scale);
  const auto at = [&](void* cache, int64_t key) {
    const int64_t block = tile.blocks[key / kv.block_size], offset = key % kv.block_size;
    return head_of_block<Element>(cache, kv, block, tile.kv_head) + offset * kv.head_dim;
  };
  const auto keys_at = [&](int64_t key) { return at(kv.k, key); };
  const auto values_at = [&](int64_t key) { return at(kv.v, key); };
  for (int64_t key = begin; key < end; key += kLanes) {
    Vec score[kRows];
    float_block<kRows, Element, kFar>(score, keys_at(key),
                                      keys_or_values(key + kKeysAhead, begin, end, keys_at, values_at), q,
                                      kv.head_dim);
    for (int t = 0; t < kRows; ++t) (score[t] * scale).store(out[t] + (key - begin));
  }
}

// sum[t][d ..] += weight[t][key] * v[key][d ..] for keys [begin, end) of the block table, one key after the
// other, and kVecs * 16 dimensions from d on; `lanes` of the last sixteen exist.   weight[t][0]: key
// `origin`; last: the end of the keys that will be wanted after these
template <class Element, int kRows, int kVecs>
inline void add_values(const AttentionTile& tile, float* const* sum, const float* const* weight,
                       int64_t origin, int64_t begin, int64_t end, int64_t last, int64_t d, int lanes) {
  const KvLayer& kv = *tile.kv;
  const int64_t block_size = kv.block_size, dim = kv.head_dim;
  const int64_t far = round_up(kKeysAhead, block_size);
  const auto values_at = [&](int64_t block) {
    return head_of_block<Element>(kv.v, kv, tile.blocks[block], tile.kv_head) +
           value_index<Element>(0, d, dim);
  };
  Vec acc[kRows][kVecs];
  for (int t = 0; t < kRows; ++t)
    for (int i = 0; i < kVecs; ++i) acc[t][i] = Vec::load(sum[t] + d + i * kLanes);
  for (int64_t key = begin, block_end; key < end; key = block_end) {
    const int64_t block = key / block_size, block_start = block * block_size;
    block_end = block_start + block_size < end ? block_start + block_size : end;
    const Element* values = values_at(block);
    const Element* ahead = block_start + far < last ? values_at(block + far / block_size) : values;
    // One or both keys of a pair, the first of which is `even`.
    const auto add_pair = [&]<bool kFirst, bool kSecond>(int64_t even) LLAMA4RT_INLINE_LAMBDA {
      const int64_t at = value_index<Element>(even - block_start, 0, dim);
      Vec first[kVecs], second[kVecs];
      for (int i = 0; i < kVecs; ++i) {
        load_value_pair(first[i], second[i], values + at, i * kLanes, dim, kVecs == 1 ? lanes : kLanes);
        prefetch<kFar>(ahead + at + value_index<Element>(0, i * kLanes, dim));
        if constexpr (sizeof(Element) == 4)
          prefetch<kFar>(ahead + at + value_index<Element>(1, i * kLanes, dim));
      }
      for (int t = 0; t < kRows; ++t) {
        const float* w = weight[t] + (even - origin);
        if constexpr (kFirst)
          for (int i = 0; i < kVecs; ++i) acc[t][i] = fma(Vec::set1(w[0]), first[i], acc[t][i]);
        if constexpr (kSecond)
          for (int i = 0; i < kVecs; ++i) acc[t][i] = fma(Vec::set1(w[1]), second[i], acc[t][i]);
      }
    };
    if (key % 2 != 0) {
      add_pair.template operator()<false, true>(key - 1);
      ++key;
    }
    for (; key + 2 <= block_end; key += 2) add_pair.template operator()<true, true>(key);
    if (key < block_end) add_pair.template operator()<true, false>(key);
  }
  for (int t = 0; t < kRows; ++t)
    for (int i = 0; i < kVecs; ++i) acc[t][i].store(sum[t] + d + i * kLanes);
}

// All dimensions. sum: [round_up(D, 16)] each
template <class Element, int kRows>
inline void add_all_values(const AttentionTile& tile, float* const* sum, const float* const* weight,
                           int64_t origin, int64_t begin, int64_t end, int64_t last) {
  const int64_t dim = tile.kv->head_dim;
  for (int64_t next; begin < end; begin = next) {
    next = round_up(begin + 1, kValueKeys) < end ? round_up(begin + 1, kValueKeys) : end;
    int64_t d = 0;
    for (; d + kValueVecs * kLanes <= dim; d += kValueVecs * kLanes)
      add_values<Element, kRows, kValueVecs>(tile, sum, weight, origin, begin, next, last, d, kLanes);
    for (; d < dim; d += kLanes)
      add_values<Element, kRows, 1>(tile, sum, weight, origin, begin, next, last, d,
                                    dim - d < kLanes ? int(dim - d) : kLanes);
  }
}

// Rows [row, row + kRows) of the tile, all of which see keys of this split.
template <class Element, int kRows>
inline void attend_rows(float* states, const AttentionTile& tile, int row, int64_t begin, float* scores) {
  using Split = SplitRows<kRows>;
  constexpr int kGroups = Split::kGroups, kGroupRows = Split::kGroupRows;
  const Split split(states, tile, row, begin, scores);
  const auto& [weight, sum, end] = split;
  score_rows<Element, kRows>(tile, tile.q + row, weight, begin, end[kRows - 1]);
  split.weigh_all(begin, tile.kv->head_dim);
  // Several groups take turns on the same few keys.
  const int64_t step = kGroups == 1 ? kSplitKeys : kValueKeys;
  for (int64_t from = begin, to; from < end[kRows - 1]; from = to) {
    to = from + step;
    const auto bounded = [&](int t) { return end[t] < to ? end[t] : to; };
    // Keys that all rows of a group see go together; later rows then see some more of their own.
    for (int first = 0; first < kRows; first += kGroupRows) {
      const int rows = kRows - first < kGroupRows ? kRows - first : kGroupRows;
      with_token_count<kGroupRows>(rows, [&]<int kN>() {
        add_all_values<Element, kN>(tile, sum + first, weight + first, begin, from, bounded(first),
                                    end[kRows - 1]);
      });
      const int64_t alone = end[first] > from ? end[first] : from;
      for (int t = first + 1; t < first + rows; ++t)
        add_all_values<Element, 1>(tile, sum + t, weight + t, begin, alone, bounded(t), 0);
    }
  }
}

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
