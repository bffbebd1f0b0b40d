// Where keys and values lie inside a KV block; only store_kv and attend look. Per (block, KV head):
//   keys    in groups of 16, lane = key, as the lines float_block wants:
//           bf16 and fp8 [P / 16][D / 2][16][2], fp32 [P / 16][D][16]
//   values  lane = dimension, two keys side by side so that one load serves both:
//           bf16 and fp8 [P / 2][D][2], fp32 [P][D]
// int8 lies in sixteens: 16 fp32 scales and then lines as of int8 weights (weights/layout.h), bytes q + 128:
//   keys    [P / 16]{ scales, [D / 4][16 keys][4 d] }
//   values  [P / 16]{ scales, [D / 16][16 / 4][16 d][4 keys] }
// int16 likewise, two numbers to a word:
//   keys    [P / 16]{ scales, [D / 2][16 keys][2 d] }
//   values  [P / 16]{ scales, [D / 16][16 / 2][16 d][2 keys] }
// int4, of rotated heads: keys as lines of int4 weights, eight numbers to a word; a byte of values holds two
// dimensions, d below d + 16, of one key, as no byte may belong to two tokens:
//   keys    [P / 16]{ scales, [D / 8][16 keys][8 d] }
//   values  [P / 16]{ scales, [D / 32][16 / 4][16 d][4 keys][2 d] }
#pragma once

#include "cpu/generic/int_vec.h"
#include "cpu/generic/quantize_row.h"
#include "ops/kv_int16.h"
#include "ops/kv_int4.h"
#include "ops/kv_int8.h"
#include "ops/kv_rotation.h"
#include "ops/op_types.h"
#include "weights/layout.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

// Start of one head's keys or values in a block.   cache: kv.k or kv.v
template <class Element>
inline Element* head_of_block(void* cache, const KvLayer& kv, int64_t block, int64_t kv_head) {
  const int64_t per_head = int64_t(kv.block_size) * kv.head_dim;
  return static_cast<Element*>(cache) + (block * kv.num_kv_heads + kv_head) * per_head;
}

// Index of (key, d) in a head's block. bf16 and fp8 keys keep d and d + 1 side by side.
template <class Element>
inline int64_t key_index(int64_t key, int64_t d, int64_t head_dim);
template <>
inline int64_t key_index<bf16>(int64_t key, int64_t d, int64_t head_dim) {
  return key / kLanes * kLanes * head_dim + d / 2 * 2 * kLanes + key % kLanes * 2 + d % 2;
}
template <>
inline int64_t key_index<float>(int64_t key, int64_t d, int64_t head_dim) {
  return key / kLanes * kLanes * head_dim + d * kLanes + key % kLanes;
}
template <>
inline int64_t key_index<f8e4m3>(int64_t key, int64_t d, int64_t head_dim) {
  return key_index<bf16>(key, d, head_dim);
}
template <class Element>
inline int64_t value_index(int64_t key, int64_t d, int64_t head_dim);
template <>
inline int64_t value_index<bf16>(int64_t key, int64_t d, int64_t head_dim) {
  return (key / 2 * head_dim + d) * 2 + key % 2;
}
template <>
inline int64_t value_index<float>(int64_t key, int64_t d, int64_t head_dim) {
  return key * head_dim + d;
}

template <>
inline int64_t value_index<f8e4m3>(int64_t key, int64_t d, int64_t head_dim) {
  return value_index<bf16>(key, d, head_dim);
}

inline void convert(float& out, float x) { out = x; }
inline void convert(bf16& out, float x) { out = to_bf16(x); }
inline void convert(f8e4m3& out, float x) { out = to_f8e4m3(x); }

template <class Element>
inline void store_kv_as(const KvLayer& kv, int64_t slot, int64_t kv_head, const float* k, const float* v) {
  const int64_t block = slot / kv.block_size, offset = slot % kv.block_size, dim = kv.head_dim;
  auto* keys = head_of_block<Element>(kv.k, kv, block, kv_head) + key_index<Element>(offset, 0, dim);
  auto* values = head_of_block<Element>(kv.v, kv, block, kv_head) + value_index<Element>(offset, 0, dim);
  for (int64_t d = 0; d < dim; ++d) convert(keys[key_index<Element>(0, d, dim)], k[d]);
  for (int64_t d = 0; d < dim; ++d) convert(values[value_index<Element>(0, d, dim)], v[d]);
}

inline constexpr int64_t kIntScaleBytes = kLanes * int64_t(sizeof(float));

// The integer keys or values of sixteen tokens.   cache: kv.k or kv.v; offset: in the block, a multiple of 16
template <KvKind kKind>
inline uint8_t* int_sixteen(void* cache, const KvLayer& kv, int64_t block, int64_t kv_head, int64_t offset) {
  const int64_t token = (block * kv.num_kv_heads + kv_head) * kv.block_size + offset;
  return static_cast<uint8_t*>(cache) + token * kv_head_bytes(kKind, kv.head_dim);
}

// Rounds k and v of one token to integers of at most kLargest; store(lines, row, column, columns, q) writes the integer
// q of one of 16 rows of lines, which are keys, or dimensions of values.
template <KvKind kKind, int kLargest, class Store>
inline void store_kv_ints(const KvLayer& kv, int64_t slot, int64_t kv_head, const float* k, const float* v,
                          const Store& store) {
  const int64_t block = slot / kv.block_size, offset = slot % kv.block_size, lane = offset % kLanes;
  const auto round = [&](void* cache, const float* x, const auto& place) {
    uint8_t* sixteen = int_sixteen<kKind>(cache, kv, block, kv_head, offset - lane);
    alignas(64) int16_t q[kMaxIntHeadDim];
    float scale = 0;
    int32_t sum = 0;
    quantize_group<int16_t, kLargest>(q, scale, sum, x, kv.head_dim);
    std::memcpy(sixteen + lane * int64_t(sizeof(float)), &scale, sizeof(float));
    for (int64_t d = 0; d < kv.head_dim; ++d) place(sixteen + kIntScaleBytes, d, q[d]);
  };
  round(kv.k, k, [&](uint8_t* lines, int64_t d, int16_t q) { store(lines, lane, d, kv.head_dim, q); });
  round(kv.v, v, [&](uint8_t* lines, int64_t d, int16_t q) {
    store(lines + d / kLanes * kLanes * kLanes * kv_format(kKind).bits / 8, d % kLanes, lane, kLanes, q);
  });
}

inline void store_kv_int8(const KvLayer& kv, int64_t slot, int64_t kv_head, const float* k, const float* v) {
  store_kv_ints<KvKind::kInt8, kKvInt8Largest>(
      kv, slot, kv_head, k, v, [](uint8_t* lines, int64_t row, int64_t column, int64_t columns, int16_t q) {
        lines[cpu16::word_offset(WeightKind::kInt8, row, column, columns) +
              cpu16::bit_offset(WeightKind::kInt8, column) / 8] =
            uint8_t(q + weight_format(WeightKind::kInt8).zero);
      });
}
inline void store_kv_int16(const KvLayer& kv, int64_t slot, int64_t kv_head, const float* k, const float* v) {
  store_kv_ints<KvKind::kInt16, kKvInt16Largest>(
      kv, slot, kv_head, k, v, [](uint8_t* lines, int64_t row, int64_t column, int64_t, int16_t q) {
        std::memcpy(lines + column / 2 * cpu16::kLineBytes + row * 4 + column % 2 * 2, &q, sizeof(q));
      });
}

inline void store_nibble(uint8_t* lines, int64_t bit, uint8_t code) {
  uint8_t& byte = lines[bit / 8];
  const int shift = int(bit % 8);
  byte = uint8_t((byte & (0xf0 >> shift)) | (code << shift));
}
inline void store_kv_int4(const KvLayer& kv, int64_t slot, int64_t kv_head, const float* k, const float* v) {
  const int64_t block = slot / kv.block_size, offset = slot % kv.block_size, lane = offset % kLanes,
                dim = kv.head_dim;
  const auto round = [&](void* cache, const float* x, const auto& bit_of) {
    uint8_t* sixteen = int_sixteen<KvKind::kInt4>(cache, kv, block, kv_head, offset - lane);
    alignas(64) float rotated[kMaxIntHeadDim];
    uint8_t codes[kMaxIntHeadDim];
    float scale = 0;
    std::memcpy(rotated, x, size_t(dim) * sizeof(float));
    rotate_head(rotated, dim);
    quantize_kv_int4(codes, scale, rotated, dim);
    std::memcpy(sixteen + lane * int64_t(sizeof(float)), &scale, sizeof(float));
    for (int64_t d = 0; d < dim; ++d) store_nibble(sixteen + kIntScaleBytes, bit_of(d), codes[d]);
  };
  round(kv.k, k, [&](int64_t d) {
    return cpu16::word_offset(WeightKind::kInt4, lane, d, dim) * 8 + cpu16::bit_offset(WeightKind::kInt4, d);
  });
  round(kv.v, v, [&](int64_t d) {
    return (d / 32 * 4 * cpu16::kLineBytes + cpu16::word_offset(WeightKind::kInt8, d % 16, lane, kLanes)) *
               8 +
           cpu16::bit_offset(WeightKind::kInt8, lane) + d / 16 % 2 * 4;
  });
}

inline void store_kv(const KvLayer& kv, int64_t slot, int64_t kv_head, const float* k, const float* v) {
  switch (kv.format) {
    case KvKind::kBF16:
      return store_kv_as<bf16>(kv, slot, kv_head, k, v);
    case KvKind::kF32:
      return store_kv_as<float>(kv, slot, kv_head, k, v);
    case KvKind::kF8E4M3:
      return store_kv_as<f8e4m3>(kv, slot, kv_head, k, v);
    case KvKind::kInt8:
      return store_kv_int8(kv, slot, kv_head, k, v);
    case KvKind::kInt16:
      return store_kv_int16(kv, slot, kv_head, k, v);
    case KvKind::kInt4:
      return store_kv_int4(kv, slot, kv_head, k, v);
  }
}

// Two keys' values of 16 dimensions from d on (n of them when fewer are left).   values: of dimension 0, an
// even key
inline void load_value_pair(Vec& first, Vec& second, const bf16* values, int64_t d, int64_t, int n) {
  const bf16* p = values + value_index<bf16>(0, d, 0);
  const IVec words = n == kLanes ? IVec::load(p) : IVec::load_partial(p, n);
  first = low_bf16(words);
  second = high_bf16(words);
}
inline void load_value_pair(Vec& first, Vec& second, const float* values, int64_t d, int64_t dim, int n) {
  const float* p = values + d;
  first = n == kLanes ? Vec::load(p) : Vec::load_partial(p, n);
  second = n == kLanes ? Vec::load(p + dim) : Vec::load_partial(p + dim, n);
}
inline void load_value_pair(Vec& first, Vec& second, const f8e4m3* values, int64_t d, int64_t, int n) {
  const f8e4m3* p = values + value_index<f8e4m3>(0, d, 0);
  f8e4m3 some[2 * kLanes] = {};
  if (n < kLanes) p = static_cast<const f8e4m3*>(std::memcpy(some, p, size_t(2 * n)));
  widen_f8_pairs(first, second, IVec::load_u8_pairs(p));
}

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
