// The table of KV cache formats: one row says what a stored key or value takes and which devices have it. Plans, options
// and checks ask the table; kernels choose their code by a switch without default, so that the compiler lists the places
// a new kind must visit.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/checked_math.h"

namespace llama4rt {

enum class KvKind : uint8_t { kBF16, kF32, kF8E4M3, kInt8, kInt16, kInt4 };

struct KvFormat {
  KvKind kind;
  std::string_view name;       // in options and messages
  std::string_view long_name;  // accepted too
  int bits;                    // of a stored number
  int scale_bytes;             // beside the numbers of one token and head, in the keys and in the values
  int stored_multiple;         // a head takes the bytes of its numbers, rounded up to a multiple of this
  int head_dim_multiple;
  int max_head_dim;  // 0: any
  bool on_gpu;       // has CUDA kernels
  bool rotated;      // heads pass the rotation of kv_rotation.h
};

//   kBF16, kF32
//   kF8E4M3  plain e4m3, no scale, saturating at 448
//   kInt8    kv_int8.h
//   kInt16   kv_int16.h
//   kInt4    kv_int4.h
inline constexpr std::array kKvFormats = {
    KvFormat{KvKind::kBF16, "bf16", "bfloat16", 16, 0, 1, 2, 0, true, false},
    KvFormat{KvKind::kF32, "f32", "float32", 32, 0, 1, 2, 0, true, false},
    KvFormat{KvKind::kF8E4M3, "fp8", "fp8_e4m3", 8, 0, 1, 2, 0, true, false},
    KvFormat{KvKind::kInt8, "int8", "int8", 8, 4, 1, 16, 256, false, false},
    KvFormat{KvKind::kInt16, "int16", "int16", 16, 4, 1, 16, 256, false, false},
    KvFormat{KvKind::kInt4, "int4", "int4", 4, 4, 1, 32, 256, false, true},
};

constexpr const KvFormat& kv_format(KvKind kind) { return kKvFormats[size_t(kind)]; }
constexpr std::string_view kv_kind_name(KvKind kind) { return kv_format(kind).name; }

static_assert([] {
  for (size_t i = 0; i < kKvFormats.size(); ++i)
    if (size_t(kKvFormats[i].kind) != i) return false;
  return true;
}());

// Bytes that the keys, or the values, of one token and one head take.
constexpr int64_t kv_head_bytes(const KvFormat& format, int64_t head_dim) {
  return round_up(head_dim, int64_t(format.stored_multiple)) * format.bits / 8 + format.scale_bytes;
}
constexpr int64_t kv_head_bytes(KvKind kind, int64_t head_dim) {
  return kv_head_bytes(kv_format(kind), head_dim);
}

// body.template operator()<kind>(): turns a cache's kind into a template argument.
template <class Body>
constexpr decltype(auto) with_kv_kind(KvKind kind, const Body& body) {
  switch (kind) {
    case KvKind::kBF16:
      return body.template operator()<KvKind::kBF16>();
    case KvKind::kF32:
      return body.template operator()<KvKind::kF32>();
    case KvKind::kF8E4M3:
      return body.template operator()<KvKind::kF8E4M3>();
    case KvKind::kInt8:
      return body.template operator()<KvKind::kInt8>();
    case KvKind::kInt16:
      return body.template operator()<KvKind::kInt16>();
    case KvKind::kInt4:
      return body.template operator()<KvKind::kInt4>();
  }
  __builtin_unreachable();
}

// Why caches of this kind cannot hold heads of this size, or not on a GPU: a sentence, or empty when they can.
std::string kv_refusal(KvKind kind, int64_t head_dim, bool on_gpu);

}  // namespace llama4rt
