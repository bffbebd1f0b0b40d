// The order of elements inside a KV block on CUDA. Only prepare_qkv, tile_pack and the attention kernels
// look.
//
// bf16 and fp8 with a head dim that is a multiple of 16 lie in *cores*: 8 rows of 16 bytes, 128 bytes in a
// row, which is what ldmatrix reads without bank conflicts and what wgmma takes as an operand without
// swizzle. The keys of one head and block come in granules of 16 keys, each contiguous:
//
//   bf16 K  [P / 16] [2: key / 8] [D / 8]  [8 keys] [8 dims]     rows are keys
//   bf16 V  [P / 16] [2: key / 8] [D / 8]  [8 dims] [8 keys]     rows are dims: V lies transposed
//   fp8  K  [P / 16] [2: key / 8] [D / 16] [8 keys] [16 dims]
//   fp8  V  [P / 16]              [D / 8]  [8 dims] [16 keys]
//
// The 16 bytes of an fp8 row are in the order 0 8 1 9, 2 10 3 11, ...: the word that ldmatrix gives to a lane
// holds what mma wants from this lane in its two registers, {2t, 2t + 1} and {2t + 8, 2t + 9}.
//
// Everything else (fp32; head dims that are no multiple of 16) is [P] [D] per head, for attention_plain.
#pragma once

#include "cuda/ptx/math.cuh"
#include "cuda/ptx/rounded.cuh"
#include "cuda/simt.h"

namespace llama4rt::cuda {

// One layer's cache, as kernels see it.
struct KvBlocks {
  void* k;  // [blocks][Hkv][P * D], inside as above
  void* v;
  int num_heads;   // Hkv
  int block_size;  // P
  int head_dim;    // D
  bool cores;      // in cores, or plain
};

// --- element types

struct KvF32 {
  using Storage = float;
  static LLAMA4RT_DEVICE float load(const Storage* p) { return *p; }
  static LLAMA4RT_DEVICE void store(Storage* p, float x) { *p = x; }
};

struct KvBF16 {
  using Storage = uint16_t;
  static constexpr int kRowElements = 8;  // of a core: 16 bytes
  static LLAMA4RT_DEVICE float load(const Storage* p) { return ptx::float_from_bits(uint32_t(*p) << 16); }
  static LLAMA4RT_DEVICE void store(Storage* p, float x) { *p = uint16_t(ptx::pack_bf16(x, 0.0f)); }
};

struct KvF8 {
  using Storage = uint8_t;
  static constexpr int kRowElements = 16;
  // e4m3, as base/dtype.h converts: nearest even, saturating at 448, NaN stays NaN.
  static LLAMA4RT_DEVICE float load(const Storage* p) {
    const uint32_t magnitude = *p & 0x7fu, sign = uint32_t(*p & 0x80u) << 24;
    // Exponent and mantissa in their places; the exponent's bias is 120 too small.
    const float value = ptx::float_from_bits(magnitude << 20 | sign) * 0x1p120f;
    return magnitude == 0x7f ? ptx::float_from_bits(0x7fc00000u | sign) : value;
  }
  static LLAMA4RT_DEVICE void store(Storage* p, float x) {
    const uint32_t bits = ptx::bits_from_float(x), sign = (bits >> 24) & 0x80u,
                   magnitude = bits & 0x7fffffffu;
    uint32_t code;
    if (magnitude > 0x7f800000u) {
      code = 0x7f;
    } else if (magnitude >= 0x43e00000u) {  // 448
      code = 0x7e;
    } else if (magnitude < 0x3c800000u) {  // below 2^-6: multiples of 2^-9, the last place of 2^14
      code = ptx::bits_from_float(ptx::float_from_bits(magnitude) + 16384.0f) & 0xfu;
    } else {
      code = ((magnitude + 0x7ffffu + ((magnitude >> 20) & 1u)) >> 20) - (120u << 3);
    }
    *p = uint8_t(code | sign);
  }
};

// Where element i of 16 stands in its row.
LLAMA4RT_DEVICE int place_of_16(int i) { return i % 8 * 2 + i / 8; }

// --- index of an element of a head's part of a block

template <class Element>
LLAMA4RT_DEVICE int key_place(const KvBlocks& kv, int key, int d) {
  const int granule = key / 16 * 16 * kv.head_dim, octet = key % 16 / 8 * 8 * kv.head_dim, row = key % 8;
  if constexpr (sizeof(typename Element::Storage) == 1)
    return granule + octet + d / 16 * 128 + row * 16 + place_of_16(d % 16);
  else
    return granule + octet + d / 8 * 64 + row * 8 + d % 8;
}

template <class Element>
LLAMA4RT_DEVICE int value_place(const KvBlocks& kv, int key, int d) {
  const int granule = key / 16 * 16 * kv.head_dim, row = d % 8;
  if constexpr (sizeof(typename Element::Storage) == 1)
    return granule + d / 8 * 128 + row * 16 + place_of_16(key % 16);
  else
    return granule + key % 16 / 8 * 8 * kv.head_dim + d / 8 * 64 + row * 8 + key % 8;
}

LLAMA4RT_DEVICE int plain_place(const KvBlocks& kv, int key, int d) { return key * kv.head_dim + d; }

// The elements of one head in one block start here.
LLAMA4RT_DEVICE int64_t head_of_block(const KvBlocks& kv, int64_t block, int head) {
  return (block * kv.num_heads + head) * kv.block_size * kv.head_dim;
}

}  // namespace llama4rt::cuda
