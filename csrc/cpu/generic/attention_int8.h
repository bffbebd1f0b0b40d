// Attention over int8 keys and values (ops/kv_int8.h) with queries and weights as int16, so that sums are
// exact integers, in any order, as they are in linear ops with int8 weights:
//   keys    sixteen keys of a head are a row block of a matrix [keys, D] of one group, a scale per key
//   values  64 keys make a group whose weights, times the values' scales, share one scale
// Half the bytes of bf16, and about half the instructions: one multiplies 32 numbers where an fma does 16.
#pragma once

#include "cpu/generic/attention_rows.h"
#include "cpu/generic/dot.h"
#include "cpu/generic/kv_layout.h"
#include "cpu/generic/quantize_row.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

// Sums are exact in 32 bits, and a group of weights fits where a query does.
static_assert(255LL * 32767 * kMaxInt8HeadDim < (1LL << 31) && kValueKeys <= kMaxInt8HeadDim);

// Queries [D], or weights of one group of keys, of up to kTokenTile rows.
struct Int8Rows {
  alignas(64) int16_t values[kTokenTile * kMaxInt8HeadDim];
  float scales[kTokenTile];
  int32_t sums[kTokenTile];
};

// Where the sixteen keys or values from `key` on of the tile's head lie.   cache: kv.k or kv.v
inline const uint8_t* int8_at(const AttentionTile& tile, void* cache, int64_t key) {
  const KvLayer& kv = *tile.kv;
  return int8_sixteen(cache, kv, tile.blocks[key / kv.block_size], tile.kv_head, key % kv.block_size);
}

// out[t][key] = scale * q[t] . k[key] for keys [begin, end), begin a multiple of 16; writes whole sixteens.
template <int kRows>
inline void score_int8_rows(const AttentionTile& tile, Int8Rows& q, float* const* out, int64_t begin,
                            int64_t end) {
  const KvLayer& kv = *tile.kv;
  const int64_t dim = kv.head_dim;
  const QuantizedRows rows{
      .values = q.values, .scales = q.scales, .sums = q.sums, .stride = dim, .groups = 1};
  const Vec scale = Vec::set1(tile.scale);
  const auto keys_at = [&](int64_t key) { return int8_at(tile, kv.k, key); };
  const auto values_at = [&](int64_t key) { return int8_at(tile, kv.v, key); };
  for (int64_t key = begin; key < end; key += kLanes) {
    const uint8_t* scales = keys_at(key);
    IntBlock block(WeightKind::kInt8, scales + kInt8ScaleBytes, dim, reinterpret_cast<const float*>(scales));
    const uint8_t* ahead = keys_or_values(key + kKeysAhead, begin, end, keys_at, values_at);
    block.ahead = ahead - scales;
    prefetch<kFar>(ahead);
    Vec score[kRows];
    int_block<kRows, WeightKind::kInt8, kFar>(score, block, rows, 0);
    for (int t = 0; t < kRows; ++t) (score[t] * scale).store(out[t] + (key - begin));
  }
}

// Row t of `out`: weights of keys [0, end[t]) of a group, times the scales of the keys' values; 0 of others.
// weight[t][0]: the group's first key; begin: its number
template <int kRows>
inline void quantize_weights(const AttentionTile& tile, Int8Rows& out, const float* const* weight,
                             const int64_t* end, int64_t begin) {
  alignas(64) float product[kValueKeys];
  for (int t = 0; t < kRows; ++t) {
    for (int64_t i = 0; i < kValueKeys; i += kLanes) {
      const int64_t seen = end[t] - begin - i;
      const int n = seen <= 0 ? 0 : seen < kLanes ? int(seen) : kLanes;
      Vec y = Vec::zero();
      if (n > 0) {
        const auto* scales = reinterpret_cast<const float*>(int8_at(tile, tile.kv->v, begin + i));
        y = Vec::load_partial(weight[t] + i, n) * Vec::load_partial(scales, n);
      }
      y.store(product + i);
    }
    quantize_group(out.values + t * kValueKeys, out.scales[t], out.sums[t], product, kValueKeys);
  }
}

// sum[t][d ..] += sum over a group of keys [begin, end) of weights times values, for kVecs * 16 dimensions
// from d on.   weights: of rows first .. first + kRows - 1; last: the end of the keys that will be wanted
// after these
template <int kRows, int kVecs>
inline void add_int8_values(const AttentionTile& tile, float* const* sum, const Int8Rows& weights, int first,
                            int64_t begin, int64_t end, int64_t last, int64_t d) {
  using Pairs = LinePairs<WeightKind::kInt8>;
  constexpr int kLinesPerVec = kLanes / cpu16::values_per_word(WeightKind::kInt8);
  const int64_t at = kInt8ScaleBytes + d / kLanes * kLinesPerVec * cpu16::kLineBytes;
  IVec acc[kRows][kVecs];
  for (auto& row : acc)
    for (IVec& v : row) v = IVec::zero();
  for (int64_t key = begin; key < end; key += kLanes) {
    const uint8_t* sixteen = int8_at(tile, tile.kv->v, key);
    const uint8_t* ahead = key + kKeysAhead < last ? int8_at(tile, tile.kv->v, key + kKeysAhead) : sixteen;
    if (d == 0) prefetch<kFar>(ahead);
    const int16_t* w = weights.values + first * kValueKeys + (key - begin);
    for (int line = 0; line < kLinesPerVec; ++line, w += Pairs::kCount * 2) {
      IVec pair[kVecs][Pairs::kCount];
      for (int i = 0; i < kVecs; ++i) {
        const int64_t offset = at + (i * kLinesPerVec + line) * cpu16::kLineBytes;
        const Pairs p(sixteen + offset);
        for (int j = 0; j < Pairs::kCount; ++j) pair[i][j] = p.pair[j];
        prefetch<kFar>(ahead + offset);
      }
      for (int t = 0; t < kRows; ++t)
        for (int j = 0; j < Pairs::kCount; ++j)
          for (int i = 0; i < kVecs; ++i)
            acc[t][i] = dot_pairs(acc[t][i], pair[i][j], w + t * kValueKeys + 2 * j);
    }
  }
  for (int t = 0; t < kRows; ++t) {
    const IVec offset = IVec::set1(weight_format(WeightKind::kInt8).zero * weights.sums[first + t]);
    const Vec scale = Vec::set1(weights.scales[first + t]);
    for (int i = 0; i < kVecs; ++i) {
      float* p = sum[t] + d + i * kLanes;
      fma(to_float(acc[t][i] - offset), scale, Vec::load(p)).store(p);
    }
  }
}

// Rows [row, row + kRows) of the tile, all of which see keys of this split.
template <int kRows>
inline void attend_int8_rows(float* states, const AttentionTile& tile, int row, int64_t begin, float* scores,
                             Int8Rows& ints) {
  using Split = SplitRows<kRows>;
  constexpr int kGroupRows = Split::kGroupRows;
  const Split split(states, tile, row, begin, scores);
  const int64_t dim = tile.kv->head_dim, last = split.end[kRows - 1];
  for (int t = 0; t < kRows; ++t)
    quantize_group(ints.values + t * dim, ints.scales[t], ints.sums[t], tile.q[row + t], dim);
  score_int8_rows<kRows>(tile, ints, split.weight, begin, last);
  split.weigh_all(begin, dim);
  for (int64_t from = begin; from < last; from += kValueKeys) {
    const float* weight[kRows];
    for (int t = 0; t < kRows; ++t) weight[t] = split.weight[t] + (from - begin);
    quantize_weights<kRows>(tile, ints, weight, split.end, from);
    const int64_t to = from + kValueKeys < last ? from + kValueKeys : last;
    for (int first = 0; first < kRows; first += kGroupRows)
      with_token_count<kGroupRows>(kRows - first < kGroupRows ? kRows - first : kGroupRows, [&]<int kN>() {
        int64_t d = 0;
        for (; d + kValueVecs * kLanes <= dim; d += kValueVecs * kLanes)
          add_int8_values<kN, kValueVecs>(tile, split.sum + first, ints, first, from, to, last, d);
        for (; d < dim; d += kLanes)
          add_int8_values<kN, 1>(tile, split.sum + first, ints, first, from, to, last, d);
      });
  }
}

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
