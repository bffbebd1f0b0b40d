// Shared by the attention kernels with mma: 16 query rows of a warp against 64 keys at a time.
//
//   scores  S = Q K^T    16 rows x 64 keys, from four granules of 16 keys (kv_layout.cuh)
//   weigh   P = 2^(S - running maximum), rounded to bf16; the accumulators are rescaled to the new maximum
//   values  O += P V     16 rows x D, granule by granule
//
// A row is one query head of one token: row r of a sequence is head r % group of token r / group, so that all
// query heads of a KV head share its keys. S and O are accumulators of m16n8k16 (lane: rows g and g + 8,
// columns 8 j + 2 t, + 1), and the accumulators of S are, rounded, the left operand of the next product as
// they stand.
//
// Order, on which results' bits depend: dims ascending in steps of 16; keys ascending in steps of 16; a new
// maximum every 64 keys; splits (attention_splits.h) ascending. A key that a row may not see has weight 0,
// which changes no bit of its sums; so it does not matter how many rows or keys a kernel takes at a time.
#pragma once

#include "cuda/device/kv_layout.cuh"
#include "cuda/device/reciprocal.cuh"
#include "cuda/kernels/attention_splits.h"
#include "cuda/ptx/math.cuh"
#include "cuda/ptx/matrix.cuh"
#include "cuda/ptx/rounded.cuh"
#include "cuda/ptx/warp.cuh"
#include "cuda/simt.h"

namespace llama4rt::cuda {

struct AttentionArgs {
  float* out;                     // [T, Hq * q_dim], out_stride between rows
  const float* q;                 // [T, Hq * q_dim], q_stride
  KvBlocks kv;                    // in cores
  const int32_t* query_start;     // [S + 1]
  const int64_t* first_position;  // [S]
  const int64_t* kv_begin;        // [S]
  const int32_t* block_table;     // [S, max_blocks]
  float* states;                  // attention_decode: of [S][row tiles][Hkv] places (attention_merge.cuh)
  uint32_t* tickets;              // attention_decode: [S][row tiles][Hkv], zero between runs
  int64_t out_stride;             // floats
  int64_t q_stride;
  int q_dim;  // dims of q and out: D, or fewer when the cache is padded
  int group;  // query heads per KV head
  int max_blocks;
  int max_splits;
  int state_rows;
  int rows_per_tile;  // R of tile_attention
  float scale;        // of scores, times log2(e)
};

inline constexpr int kGranuleKeys = 16;
inline constexpr int kTileKeys = 64;
inline constexpr int kTileGranules = kTileKeys / kGranuleKeys;

LLAMA4RT_DEVICE float minus_infinity() { return ptx::float_from_bits(0xff800000u); }

// kExactDim: every head has kMaxHeadDim dims; otherwise up to that many, in steps of 16.
template <class ElementType, int kMaxHeadDim, bool kExactDim>
struct HeadConfig {
  using Element = ElementType;
  static constexpr bool kIsF8 = sizeof(typename Element::Storage) == 1;
  static constexpr bool kExact = kExactDim;
  static constexpr int kMaxDim = kMaxHeadDim;
  static constexpr int kSteps = kMaxDim / 16;  // of k16 in a score
  static constexpr int kOctets = kMaxDim / 8;  // of dims in a row of values
  static constexpr int kMaxGranuleBytes = kGranuleKeys * kMaxDim * int(sizeof(typename Element::Storage));
  static LLAMA4RT_DEVICE int dim(int head_dim) { return kExactDim ? kMaxDim : head_dim; }
  static LLAMA4RT_DEVICE bool has(int begin, int head_dim) { return kExactDim || begin < head_dim; }
  static LLAMA4RT_DEVICE int granule_bytes(int head_dim) {
    return kGranuleKeys * dim(head_dim) * int(sizeof(typename Element::Storage));
  }
};

// --- where things are

// The rows and keys of one sequence (or picture tile).
struct RowsOfSequence {
  int64_t first_row;   // of q and out: its first token
  int num_rows;        // tokens times group
  int64_t first_keys;  // that its first token sees
  int keys_per_token;  // more for each further token: 1, or 0 in a picture tile
  const int32_t* blocks;

  LLAMA4RT_DEVICE RowsOfSequence(const AttentionArgs& a, int s) {
    if (a.rows_per_tile > 0) {
      first_row = int64_t(s) * a.rows_per_tile;
      num_rows = a.rows_per_tile;
      first_keys = a.rows_per_tile;
      keys_per_token = 0;
      blocks = nullptr;
      return;
    }
    first_row = a.query_start[s];
    num_rows = int(a.query_start[s + 1] - first_row) * a.group;
    first_keys = a.first_position[s] - a.kv_begin[s] + 1;
    keys_per_token = 1;
    blocks = a.block_table + int64_t(s) * a.max_blocks;
  }
  // How many keys row `row` sees; none if it does not exist.
  LLAMA4RT_DEVICE int64_t keys(const AttentionArgs& a, int row) const {
    return row < num_rows ? first_keys + row / a.group * keys_per_token : 0;
  }
};

// --- registers of a warp

// How many keys rows g and g + 8 see.
struct RowKeys {
  int64_t keys[2];
  LLAMA4RT_DEVICE void set(const AttentionArgs& a, const RowsOfSequence& s, int first_row) {
    for (int half = 0; half < 2; ++half) keys[half] = s.keys(a, first_row + lane_index() / 4 + 8 * half);
  }
};

template <class Config>
struct QueryRows : RowKeys {
  uint32_t value[Config::kSteps][4];  // left operands

  LLAMA4RT_DEVICE void load(const AttentionArgs& a, const RowsOfSequence& s, int first_row, int kv_head) {
    const int g = lane_index() / 4, t = lane_index() % 4;
    set(a, s, first_row);
    for (int half = 0; half < 2; ++half) {
      const int row = first_row + g + 8 * half;
      const bool exists = row < s.num_rows;
      const float* q = a.q + (s.first_row + row / a.group) * a.q_stride +
                       int64_t(kv_head * a.group + row % a.group) * a.q_dim;
      const auto pair = [&](int d) {
        const float low = exists && d < a.q_dim ? q[d] : 0.0f;
        const float high = exists && d + 1 < a.q_dim ? q[d + 1] : 0.0f;
        return ptx::pack_bf16(low, high);
      };
      for (int step = 0; step < Config::kSteps; ++step) {
        value[step][half] = pair(16 * step + 2 * t);
        value[step][half + 2] = pair(16 * step + 2 * t + 8);
      }
    }
  }
};

// Running maximum, sum and output of the rows after some keys. Before any key: -inf and zeros.
template <class Config>
struct RowState {
  float maximum[2], sum[2];
  float out[Config::kOctets][4];

  LLAMA4RT_DEVICE void clear() {
    for (int half = 0; half < 2; ++half) maximum[half] = minus_infinity(), sum[half] = 0.0f;
    for (int j = 0; j < Config::kOctets; ++j)
      for (int i = 0; i < 4; ++i) out[j][i] = 0.0f;
  }
};

// Weights of scores are 2^(scale * x - base), base = scale * maximum rounded once: so a state whose maximum
// does not change is multiplied by exactly 1, and it does not matter whether a kernel looks at keys no row
// sees.
struct Exponent {
  float scale, base;
  LLAMA4RT_DEVICE Exponent(float scores_scale, float maximum)
      : scale(scores_scale), base(base_of(scores_scale, maximum)) {}
  static LLAMA4RT_DEVICE float base_of(float scores_scale, float maximum) {
    // mul, lest a compiler fuse it with the subtraction behind it. Before any key any number will do.
    return maximum == minus_infinity() ? 0.0f : ptx::mul(maximum, scores_scale);
  }
  LLAMA4RT_DEVICE float weight(float score) const { return ptx::exp2(ptx::fma(score, scale, -base)); }
  // The factor that rescales sums made with another maximum to this one.
  LLAMA4RT_DEVICE float factor(float maximum) const {
    return maximum == minus_infinity() ? 0.0f : ptx::exp2(base_of(scale, maximum) - base);
  }
};

// --- operands from shared memory

// Four e4m3 in the order of kv_layout.cuh become the two registers of a right operand.
LLAMA4RT_DEVICE void widen(uint32_t word, uint32_t& low, uint32_t& high) {
  // Exponent and mantissa moved into the places of bf16; its exponent's bias is 120 larger. Exact.
  constexpr uint32_t kSign = 0x80008000u, kRest = 0x07f007f0u, k2To120 = 0x7b807b80u;
  low = ptx::fma_bf16x2(ptx::and_or(word << 4, kRest, word << 8 & kSign), k2To120, 0);
  high = ptx::fma_bf16x2(ptx::and_or(word >> 4, kRest, word & kSign), k2To120, 0);
}

// scores += Q K^T for one granule.   keys: shared address of the granule
template <class Config>
LLAMA4RT_DEVICE void add_scores(float (&first)[4], float (&second)[4], const QueryRows<Config>& q,
                                uint32_t keys, int head_dim) {
  const int lane = lane_index(), half = lane / 8 % 2;
  const int octet_bytes = Config::granule_bytes(head_dim) / 2;
  const uint32_t address = keys + uint32_t(lane / 16 * octet_bytes + lane % 8 * 16);
  if constexpr (Config::kIsF8) {
    for (int step = 0; step < Config::kSteps; step += 2) {
      if (!Config::has(step * 16, head_dim)) break;
      const bool has_next = Config::has(step * 16 + 16, head_dim);
      uint32_t words[4], low, high;
      ptx::ldmatrix_x4(words, address + uint32_t((step + (has_next ? half : 0)) * 128));
      widen(words[0], low, high);
      ptx::mma_m16n8k16(first, q.value[step], low, high);
      widen(words[2], low, high);
      ptx::mma_m16n8k16(second, q.value[step], low, high);
      if (!has_next) break;
      widen(words[1], low, high);
      ptx::mma_m16n8k16(first, q.value[step + 1], low, high);
      widen(words[3], low, high);
      ptx::mma_m16n8k16(second, q.value[step + 1], low, high);
    }
  } else {
    for (int step = 0; step < Config::kSteps; ++step) {
      if (!Config::has(step * 16, head_dim)) break;
      uint32_t k[4];
      ptx::ldmatrix_x4(k, address + uint32_t((2 * step + half) * 128));
      ptx::mma_m16n8k16(first, q.value[step], k[0], k[1]);
      ptx::mma_m16n8k16(second, q.value[step], k[2], k[3]);
    }
  }
}

// Which of the two keys of a pair exist when `keys` from the pair on do.
LLAMA4RT_DEVICE uint32_t pair_mask(int keys) { return keys >= 2 ? 0xffffffffu : keys == 1 ? 0xffffu : 0; }

// out += P V for one granule, whose first `keys` keys exist; the others' values may be anything.
template <class Config>
LLAMA4RT_DEVICE void add_values(float (&out)[Config::kOctets][4], const uint32_t (&weights)[4],
                                uint32_t values, int keys, int head_dim) {
  const int lane = lane_index(), t = lane % 4;
  const uint32_t mask[2] = {pair_mask(keys - 2 * t), pair_mask(keys - 2 * t - 8)};
  const uint32_t row = values + uint32_t(lane % 8 * 16);
  if constexpr (Config::kIsF8) {
    const int last = Config::dim(head_dim) / 8 - 1;
    for (int j = 0; j < Config::kOctets; j += 4) {
      if (!Config::has(j * 8, head_dim)) break;
      const int core = j + lane / 8;
      uint32_t words[4];
      ptx::ldmatrix_x4(words, row + uint32_t((core < last ? core : last) * 128));
      for (int i = 0; i < 4 && j + i < Config::kOctets; ++i) {
        if (!Config::has((j + i) * 8, head_dim)) break;
        uint32_t low, high;
        widen(words[i], low, high);
        ptx::mma_m16n8k16(out[j + i], weights, low & mask[0], high & mask[1]);
      }
    }
  } else {
    const int octet_bytes = Config::granule_bytes(head_dim) / 2;
    const uint32_t address = row + uint32_t(lane / 8 % 2 * octet_bytes + lane / 16 * 128);
    for (int j = 0; j < Config::kOctets; j += 2) {
      if (!Config::has(j * 8, head_dim)) break;
      uint32_t v[4];
      ptx::ldmatrix_x4(v, address + uint32_t(j * 128));
      ptx::mma_m16n8k16(out[j], weights, v[0] & mask[0], v[1] & mask[1]);
      ptx::mma_m16n8k16(out[j + 1], weights, v[2] & mask[0], v[3] & mask[1]);
    }
  }
}

// --- softmax

// The same largest value, or sum, in the four lanes of a row.
LLAMA4RT_DEVICE float row_max(float value) {
  for (int step = 1; step < 4; step *= 2) {
    const float other = ptx::shuffle_xor(value, step);
    value = other > value ? other : value;
  }
  return value;
}
LLAMA4RT_DEVICE float row_sum(float value) {
  for (int step = 1; step < 4; step *= 2) value += ptx::shuffle_xor(value, step);
  return value;
}

// The largest of `top` and the scores that row `half` of the lane has for the keys from `first_key` on. Scores of keys
// that it may not see become -inf.
LLAMA4RT_DEVICE float top_score(float (&scores)[2 * kTileGranules][4], const RowKeys& rows, int half,
                                int64_t first_key, float top) {
  const int t = lane_index() % 4;
  const int64_t left = rows.keys[half] - first_key;
  const int seen = left < kTileKeys ? int(left < 0 ? 0 : left) : kTileKeys;
  for (int j = 0; j < 2 * kTileGranules; ++j)
    for (int i = 0; i < 2; ++i) {
      float& score = scores[j][2 * half + i];
      if (8 * j + 2 * t + i >= seen) score = minus_infinity();
      top = score > top ? score : top;
    }
  return row_max(top);
}

// Scores of row `half` become weights, in the order of left operands; the lane's sum of them. Sums are of the rounded
// weights, so that weights add up to one whatever rounding did.
LLAMA4RT_DEVICE float weigh_row(uint32_t (&weights)[kTileGranules][4],
                                const float (&scores)[2 * kTileGranules][4], int half,
                                const Exponent& exponent) {
  float sum = 0.0f;
  for (int j = 0; j < 2 * kTileGranules; ++j) {
    const uint32_t pair =
        ptx::pack_bf16(exponent.weight(scores[j][2 * half]), exponent.weight(scores[j][2 * half + 1]));
    weights[j / 2][j % 2 * 2 + half] = pair;
    sum += ptx::float_from_bits(pair << 16);
    sum += ptx::float_from_bits(pair & 0xffff0000u);
  }
  return sum;
}

// Rescales sums of values to a new maximum. Most tiles bring none; a product with 1 would change nothing.
template <int kOctets>
LLAMA4RT_DEVICE void rescale(float (&out)[kOctets][4], const float (&factor)[2]) {
  if (ptx::ballot(factor[0] != 1.0f || factor[1] != 1.0f) != 0)
    for (int j = 0; j < kOctets; ++j)
      for (int i = 0; i < 4; ++i) out[j][i] *= factor[i / 2];
}

// Scores of the tile whose first key is `first_key` become weights; maximum, sum and out follow.
template <class Config>
LLAMA4RT_DEVICE void weigh(uint32_t (&weights)[kTileGranules][4], float (&scores)[2 * kTileGranules][4],
                           RowState<Config>& state, const RowKeys& rows, int64_t first_key, float scale) {
  float factor[2];
  for (int half = 0; half < 2; ++half) {
    const float top = top_score(scores, rows, half, first_key, state.maximum[half]);
    const Exponent exponent(scale, top);
    factor[half] = exponent.factor(state.maximum[half]);
    state.maximum[half] = top;
    const float sum = weigh_row(weights, scores, half, exponent);
    state.sum[half] = ptx::fma(state.sum[half], factor[half], sum);
  }
  rescale(state.out, factor);
}

// --- merging splits

// Rescales two partial results of a row to their common maximum.
struct Merge {
  float maximum, total_factor, split_factor;
  LLAMA4RT_DEVICE Merge(float total, float split, float scale) : maximum(split > total ? split : total) {
    const Exponent exponent(scale, maximum);
    total_factor = exponent.factor(total);
    split_factor = exponent.factor(split);
  }
  LLAMA4RT_DEVICE float operator()(float total, float split) const {
    return ptx::fma(total, total_factor, split * split_factor);
  }
};

// total = total and then split; sums of split are complete (row_sum).
template <class Config>
LLAMA4RT_DEVICE void merge_split(RowState<Config>& total, const RowState<Config>& split, float scale) {
  for (int half = 0; half < 2; ++half) {
    const Merge merge(total.maximum[half], split.maximum[half], scale);
    total.maximum[half] = merge.maximum;
    total.sum[half] = merge(total.sum[half], row_sum(split.sum[half]));
    for (int j = 0; j < Config::kOctets; ++j)
      for (int i = 2 * half; i < 2 * half + 2; ++i) total.out[j][i] = merge(total.out[j][i], split.out[j][i]);
  }
}

// Averages of the values to where they belong.
template <class Head>
LLAMA4RT_DEVICE void store_rows(const AttentionArgs& a, const RowsOfSequence& s, const RowState<Head>& state,
                                int first_row, int kv_head) {
  const int g = lane_index() / 4, t = lane_index() % 4;
  for (int half = 0; half < 2; ++half) {
    const int row = first_row + g + 8 * half;
    if (row >= s.num_rows) continue;
    const float inverse = reciprocal(state.sum[half]);
    float* const out = a.out + (s.first_row + row / a.group) * a.out_stride +
                       int64_t(kv_head * a.group + row % a.group) * a.q_dim;
    for (int j = 0; j < Head::kOctets; ++j)
      for (int i = 0; i < 2; ++i) {
        const int d = 8 * j + 2 * t + i;
        if (d < a.q_dim) out[d] = state.out[j][2 * half + i] * inverse;
      }
  }
}

}  // namespace llama4rt::cuda
