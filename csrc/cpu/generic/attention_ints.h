// Attention over keys and values that are integers: queries and softmax weights become integers too, so that sums are
// exact, in any order:
//   keys    sixteen keys of a head are lines with a scale per key; a query has one scale
//   values  64 keys make a group whose weights, times the values' scales, share one scale
// All rows of a tile pass a split of keys in three steps: scores, 32 keys of the cache at a time for all rows; weights,
// row by row; sums of values, 64 keys at a time for all rows. So what is loaded from the cache serves all rows while it
// is in the first cache of the processor.
#pragma once

#include "cpu/generic/attention_rows.h"
#include "cpu/generic/kv_ints.h"
#include "cpu/generic/kv_layout.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

inline constexpr int64_t kSplitSixteens = kSplitKeys / kLanes, kSplitGroups = kSplitKeys / kValueKeys;
// From a row to the next: a multiple of 4 KB would put all rows into one set of the first cache.
inline constexpr int64_t kScoreStride = kSplitKeys + kLanes, kWeightStride = kSplitKeys + 64;
// So many sixteens of keys at once, as the registers hold sums.
inline constexpr int kKeySixteens = kTokenTile >= 8 ? 2 : 1;

// int8 lines hold 0 to 255; int16's bound is that of its step (ops/kv_int16.h).
static_assert(32767LL * 255 * kMaxIntHeadDim < (1LL << 31) && kValueKeys <= kMaxIntHeadDim);

struct IntRows {
  alignas(64) int16_t queries[kMaxAttentionRows * kMaxIntHeadDim];
  alignas(64) int16_t weights[kMaxAttentionRows * kWeightStride];
  float query_scale[kMaxAttentionRows];
  int32_t query_sum[kMaxAttentionRows];
  float weight_scale[kMaxAttentionRows][kSplitGroups];
  int32_t weight_sum[kMaxAttentionRows][kSplitGroups];
};
struct IntScratch {
  alignas(64) float scores[kMaxAttentionRows * kScoreStride];
  // Scales and lines of sixteen keys or values each; a few more of the values, which are asked for ahead of time.
  const uint8_t* keys[kSplitSixteens];
  const uint8_t* values[kSplitSixteens];
  IntRows rows;
};

// Rows [first, tile.num_rows) of a tile that see keys of one split.
template <class Ints>
class IntSplit {
 public:
  IntSplit(float* states, const AttentionTile& tile, int64_t begin, int first, IntScratch& scratch)
      : tile_(tile), states_(states), begin_(begin), first_(first), scratch_(scratch), rows_(scratch.rows) {
    const KvLayer& kv = *tile.kv;
    count_ = (seen(tile.num_rows - 1) + kLanes - 1) / kLanes;
    for (int64_t i = 0; i < count_; ++i) {
      const int64_t key = begin + i * kLanes, block = tile.blocks[key / kv.block_size],
                    offset = key % kv.block_size;
      scratch.keys[i] = int_sixteen<Ints::kKind>(kv.k, kv, block, tile.kv_head, offset);
      scratch.values[i] = int_sixteen<Ints::kKind>(kv.v, kv, block, tile.kv_head, offset);
    }
  }

  void run() {
    const int64_t dim = tile_.kv->head_dim;
    for (int t = first_; t < tile_.num_rows; ++t)
      quantize_query<Ints>(rows_.queries + t * dim, rows_.query_scale[t], rows_.query_sum[t], tile_.q[t],
                           dim);
    for (int64_t i = 0; i < count_; i += kKeySixteens)
      for (int t = first_; t < tile_.num_rows; t += kTokenTile)
        with_token_count(std::min(tile_.num_rows - t, kTokenTile), [&]<int kRows>() { score<kRows>(t, i); });
    for (int t = first_; t < tile_.num_rows; ++t) weigh(t);
    for (int64_t group = 0; group < count_; group += kValueKeys / kLanes) add_values(group);
  }

 private:
  int64_t seen(int t) const { return std::min(tile_.num_keys[t] - begin_, kSplitKeys); }
  float* state(int t) const { return states_ + t * attention_state_floats(tile_.kv->head_dim); }

  // Scores of rows t .. t + kRows - 1 with kKeySixteens sixteens of keys from the i-th on.
  template <int kRows>
  LLAMA4RT_INLINE void score(int t, int64_t i) {
    const int64_t dim = tile_.kv->head_dim;
    const uint8_t* lines[kKeySixteens];
    const uint8_t* ahead[kKeySixteens];
    Vec key_scale[kKeySixteens];
    for (int b = 0; b < kKeySixteens; ++b) {
      const int64_t at = std::min(i + b, count_ - 1);  // of an odd number the last one twice
      lines[b] = scratch_.keys[at] + kIntScaleBytes;
      key_scale[b] = Vec::load(reinterpret_cast<const float*>(scratch_.keys[at]));
      ahead[b] = t == first_ ? keys_ahead(at) : lines[b];
    }
    const int16_t* q = rows_.queries + t * dim;
    float* out = scratch_.scores + t * kScoreStride + i * kLanes;
    const float* query_scale = rows_.query_scale + t;
    const float scale = tile_.scale;
    IVec sum[kRows][kKeySixteens];
    for (int r = 0; r < kRows; ++r)
      for (IVec& s : sum[r]) s = start_of(rows_.query_sum[t + r]);
    for (int64_t d = 0, line = 0; d < dim; d += Ints::kPerWord, line += cpu16::kLineBytes) {
      typename Ints::Line keys[kKeySixteens];
      for (int b = 0; b < kKeySixteens; ++b) {
        keys[b].load(lines[b] + line);
        prefetch<kFar>(ahead[b] + line);
      }
      for (int r = 0; r < kRows; ++r)
        for (int b = 0; b < kKeySixteens; ++b) sum[r][b] = keys[b].dot(sum[r][b], q + r * dim + d);
    }
    for (int r = 0; r < kRows; ++r) {
      const Vec row_scale = Vec::set1(query_scale[r] * scale);
      for (int b = 0; b < kKeySixteens; ++b)
        (to_float(whole(sum[r][b], rows_.query_sum[t + r])) * key_scale[b] * row_scale)
            .store(out + r * kScoreStride + b * kLanes);
    }
  }
  // What a sum of products with codes begins with, and the sum of products with the integers that they stand for.
  // x_sum: of the numbers they meet
  static LLAMA4RT_INLINE IVec start_of(int32_t x_sum) {
    return Ints::kZero == 0 || Ints::kFactor != 1 ? IVec::zero() : IVec::set1(-Ints::kZero * x_sum);
  }
  static LLAMA4RT_INLINE IVec whole(IVec sum, int32_t x_sum) {
    static_assert(Ints::kFactor == 1 || Ints::kFactor == 2);
    if constexpr (Ints::kFactor == 1) return sum;
    return sum + sum - IVec::set1(Ints::kZero * x_sum);
  }

  // What to ask for while the i-th sixteen keys are multiplied: keys further on, behind them the first values.
  const uint8_t* keys_ahead(int64_t i) const {
    i += kKeysAhead / kLanes;
    return i < count_ ? scratch_.keys[i] : scratch_.values[(i - count_) % count_];
  }

  // Scores of row t become weights, and these times the scales of values become integers; unseen keys have none. In
  // passes, so that no key waits for what another's group has in common.
  void weigh(int t) {
    constexpr int kVecs = kValueKeys / kLanes;
    const int64_t seen_keys = seen(t), count = count_, groups = (count + kVecs - 1) / kVecs;
    float* const score = scratch_.scores + t * kScoreStride;
    const int64_t whole = seen_keys / kLanes;  // sixteens
    if (whole < (seen_keys + kLanes - 1) / kLanes)
      for (int64_t i = seen_keys; i < (whole + 1) * kLanes; ++i) score[i] = kMinusInfinity;
    Vec top[2] = {Vec::load(score), Vec::load(score)};
    for (int64_t i = 0; i < seen_keys; i += kLanes) {
      Vec& chain = top[i / kLanes % 2];
      chain = max(chain, Vec::load(score + i));
    }
    const float maximum = reduce_max(max(top[0], top[1]));

    const Vec shift = Vec::set1(maximum);
    Vec total = Vec::zero();
    Extent extent[kSplitGroups];
    const auto weigh_sixteen = [&](int64_t i, Vec weight, Vec scale) LLAMA4RT_INLINE_LAMBDA {
      total = total + weight;
      const Vec y = weight * scale;
      extent[i / kVecs].add(y);
      y.store(score + i * kLanes);
    };
    const uint8_t* const* sixteens = scratch_.values;
    const auto scales = [&](int64_t i) { return reinterpret_cast<const float*>(sixteens[i]); };
    for (int64_t i = 0; i < whole; ++i)
      weigh_sixteen(i, exp(Vec::load(score + i * kLanes) - shift), Vec::load(scales(i)));
    if (const int n = int(seen_keys - whole * kLanes); n > 0) {
      exp(Vec::load(score + whole * kLanes) - shift).store(score + whole * kLanes);
      weigh_sixteen(whole, Vec::load_partial(score + whole * kLanes, n), Vec::load_partial(scales(whole), n));
    }
    for (int64_t i = (seen_keys + kLanes - 1) / kLanes; i < groups * kVecs; ++i)
      Vec::zero().store(score + i * kLanes);

    float inverse[kSplitGroups];
    for (int64_t group = 0; group < groups; ++group) {
      const Step step = Ints::step(extent[group]);
      rows_.weight_scale[t][group] = step.scale;
      inverse[group] = step.inverse;
    }
    int16_t* const weights = rows_.weights + t * kWeightStride;
    for (int64_t group = 0; group < groups; ++group) {
      IVec sum = IVec::zero();
      for (int64_t i = group * kVecs; i < (group + 1) * kVecs; ++i) {
        IVec q = IVec::zero();
        if (inverse[group] != 0) q = round_to_int(Vec::load(score + i * kLanes) * Vec::set1(inverse[group]));
        q.store_i16(weights + i * kLanes);
        sum = sum + q;
      }
      if constexpr (Ints::kZero != 0) rows_.weight_sum[t][group] = reduce_add(sum);
    }
    float* const header = state(t);
    header[0] = maximum;
    header[1] = reduce_add(total);
    for (int64_t d = 0; d < tile_.kv->head_dim; d += kLanes) Vec::zero().store(header + kStateHeader + d);
  }

  // Adds the values of a group, which begins with the i-th sixteen, to the sums of all rows.
  void add_values(int64_t i) {
    const int64_t dim = tile_.kv->head_dim;
    const int num_rows = tile_.num_rows - first_, groups = (num_rows + kValueRows - 1) / kValueRows;
    const int group_rows = (num_rows + groups - 1) / groups;  // of about one size
    for (int64_t d = 0, next; d < dim; d = next) {
      const bool wide = d + kValueVecs * kLanes <= dim;
      next = d + (wide ? kValueVecs : Ints::kLineVecs) * kLanes;
      for (int t = first_; t < tile_.num_rows; t += group_rows)
        with_token_count<kValueRows>(std::min(group_rows, tile_.num_rows - t), [&]<int kRows>() {
          wide ? add_values_of<kRows, kValueVecs>(t, i, d) : add_values_of<kRows, Ints::kLineVecs>(t, i, d);
        });
    }
  }
  // The same for rows t .. t + kRows - 1 and kVecs * 16 dimensions from d on.
  template <int kRows, int kVecs>
  LLAMA4RT_INLINE void add_values_of(int t, int64_t i, int64_t d) {
    constexpr int kLinesPerVec = kLanes / Ints::kValuesPerWord, kLineVecs = Ints::kLineVecs;
    static_assert(kVecs % kLineVecs == 0);
    const int64_t group = i / (kValueKeys / kLanes), end = std::min(i + kValueKeys / kLanes, count_);
    const int64_t at = kIntScaleBytes + d / (kLanes * kLineVecs) * kLinesPerVec * cpu16::kLineBytes;
    const float* weight_scale = &rows_.weight_scale[t][group];
    const int64_t row_floats = attention_state_floats(tile_.kv->head_dim);
    float* out = state(t) + kStateHeader + d;
    const uint8_t* const* sixteens = scratch_.values;
    const int64_t last = count_ - 1;
    const bool first = t == first_;
    const int16_t* weights = rows_.weights + t * kWeightStride;
    IVec sum[kRows][kVecs];
    for (int r = 0; r < kRows; ++r)
      for (IVec& s : sum[r]) s = start_of(rows_.weight_sum[t + r][group]);
    for (int64_t key = i; key < end; ++key) {
      const uint8_t* lines = sixteens[key] + at;
      const uint8_t* ahead = first ? sixteens[std::min(key + kKeysAhead / kLanes, last)] + at : lines;
      const int16_t* w = weights + key * kLanes;
      for (int line = 0; line < kLinesPerVec; ++line, w += Ints::kValuesPerWord) {
        typename Ints::ValueLine values[kVecs / kLineVecs];
        for (int v = 0; v < kVecs / kLineVecs; ++v) {
          const int64_t offset = (v * kLinesPerVec + line) * cpu16::kLineBytes;
          values[v].load(lines + offset);
          prefetch<kFar>(ahead + offset);
        }
        for (int r = 0; r < kRows; ++r)
          for (int v = 0; v < kVecs; v += kLineVecs) {
            const int16_t* x = w + r * kWeightStride;
            sum[r][v] = values[v / kLineVecs].template dot<0>(sum[r][v], x);
            if constexpr (kLineVecs == 2)
              sum[r][v + 1] = values[v / kLineVecs].template dot<1>(sum[r][v + 1], x);
          }
      }
    }
    for (int r = 0; r < kRows; ++r, out += row_floats) {
      const Vec scale = Vec::set1(weight_scale[r * kSplitGroups]);
      for (int v = 0; v < kVecs; ++v)
        fma(to_float(whole(sum[r][v], rows_.weight_sum[t + r][group])), scale, Vec::load(out + v * kLanes))
            .store(out + v * kLanes);
    }
  }

  const AttentionTile& tile_;
  float* states_;
  int64_t begin_;
  int first_;
  IntScratch& scratch_;
  IntRows& rows_;
  int64_t count_ = 0;  // sixteens that the last row, and so any row, sees something of
};

template <class Ints>
inline void attend_ints(float* states, const AttentionTile& tile, int64_t split, IntScratch& scratch) {
  const int first = rows_without_keys(states, tile, split);
  if (first < tile.num_rows) IntSplit<Ints>(states, tile, split * kSplitKeys, first, scratch).run();
}

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
