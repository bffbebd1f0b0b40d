// The shared cases of every op: tests/cpp/ops checks errors on them, benchmarks/ops measures time on the
// *Speed lists. Test cases are small and odd on purpose: widths that are no multiple of a vector, a row block
// or a weight group, and every tile remainder. Speed cases have Scout's proportions and are too slow for the
// reference.
#pragma once

#include <cstdint>
#include <iterator>
#include <vector>

#include "base/dtype.h"
#include "ops/kv_formats.h"
#include "weights/weight.h"

namespace llama4rt::cases {

// --- weights

struct WeightSpec {
  WeightKind kind = WeightKind::kBF16;
  int group_size = 0;
  bool zeros = false;
  DType scales = DType::kBF16;
  bool offsets = false;
  CodeTable table = kEvenTable;
  DType factors = DType::kF32;  // of scales that have some
  bool row_factors = false;
};

inline constexpr WeightSpec kBF16{};
inline constexpr WeightSpec kInt8{.kind = WeightKind::kInt8, .group_size = 128};
inline constexpr WeightSpec kInt4{.kind = WeightKind::kInt4, .group_size = 128};

inline constexpr WeightSpec kFp8{.kind = WeightKind::kFp8, .group_size = 128};

// A table as wide as int8 and nowhere even, and that of e2m1 (MXFP4, NVFP4), in halves, with a zero of each sign.
inline constexpr CodeTable kWideTable = {-128, -104, -83, -65, -49, -35, -22, -10,
                                         1,    13,   25,  38,  53,  69,  89,  127};
inline constexpr CodeTable kE2M1Table = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
inline constexpr WeightSpec kTable4{.kind = WeightKind::kTable4, .group_size = 128, .table = kWideTable};

// One of each kind.
inline constexpr WeightSpec kKindSpecs[] = {kBF16, kInt8, kInt4, kFp8, kTable4};
static_assert(std::size(kKindSpecs) == kWeightFormats.size());

inline constexpr WeightSpec kWeightSpecs[] = {
    kBF16,
    {.kind = WeightKind::kInt8, .group_size = 32},
    {.kind = WeightKind::kInt8, .group_size = 64},
    kInt8,
    {.kind = WeightKind::kInt8, .group_size = 128, .scales = DType::kF32},
    {.kind = WeightKind::kInt4, .group_size = 32},
    {.kind = WeightKind::kInt4, .group_size = 64},
    kInt4,
    {.kind = WeightKind::kInt4, .group_size = 128, .scales = DType::kF32},
    {.kind = WeightKind::kInt4, .group_size = 32, .zeros = true},
    {.kind = WeightKind::kInt4, .group_size = 64, .zeros = true, .scales = DType::kF32},
    {.kind = WeightKind::kInt4, .group_size = 128, .zeros = true},
    {.kind = WeightKind::kInt4, .group_size = 16},
    {.kind = WeightKind::kInt4, .group_size = 16, .offsets = true},
    {.kind = WeightKind::kInt4, .group_size = 32, .scales = DType::kF32, .offsets = true},
    {.kind = WeightKind::kInt4, .group_size = 128, .zeros = true, .offsets = true},
    {.kind = WeightKind::kInt8, .group_size = 16, .scales = DType::kF32},
    {.kind = WeightKind::kInt8, .group_size = 64, .zeros = true},
    {.kind = WeightKind::kInt8, .group_size = 16, .scales = DType::kF32, .offsets = true},
    {.kind = WeightKind::kInt8, .group_size = 32, .offsets = true},
    {.kind = WeightKind::kInt8, .group_size = 64, .zeros = true, .offsets = true},
    {.kind = WeightKind::kFp8, .group_size = 16, .scales = DType::kF32},
    kFp8,
    {.kind = WeightKind::kTable4, .group_size = 16, .scales = DType::kF32, .table = kE2M1Table},
    {.kind = WeightKind::kTable4, .group_size = 32, .table = kE2M1Table},
    {.kind = WeightKind::kTable4, .group_size = 64, .scales = DType::kF32, .table = kWideTable},
    kTable4,
    {.kind = WeightKind::kInt4, .group_size = 32, .scales = DType::kF16, .offsets = true},
    {.kind = WeightKind::kInt4,
     .group_size = 32,
     .scales = DType::kI8,
     .offsets = true,
     .factors = DType::kF16},
    {.kind = WeightKind::kInt8, .group_size = 16, .scales = DType::kI8},
    {.kind = WeightKind::kTable4,
     .group_size = 16,
     .scales = DType::kF8E4M3,
     .table = kE2M1Table,
     .row_factors = true},
    {.kind = WeightKind::kFp8, .group_size = 128, .scales = DType::kF16},
};

// --- rows: rmsnorm, layernorm, add_bias, gelu

struct RowsCase {
  int64_t tokens = 1;
  int64_t dim = 1;
};

inline constexpr RowsCase kRowsCases[] = {
    {.tokens = 1, .dim = 5120},  // decode, Scout width
    {.tokens = 3, .dim = 333},   // not a multiple of anything
    {.tokens = 2, .dim = 1},    {.tokens = 5, .dim = 15}, {.tokens = 5, .dim = 16},
    {.tokens = 5, .dim = 17},   {.tokens = 4, .dim = 63}, {.tokens = 4, .dim = 65},
    {.tokens = 67, .dim = 256},
};

inline constexpr RowsCase kRmsNormSpeed[] = {{.tokens = 1, .dim = 5120}, {.tokens = 512, .dim = 5120}};
inline constexpr RowsCase kLayerNormSpeed[] = {{.tokens = 577, .dim = 1408}};  // one picture tile
inline constexpr RowsCase kGeluSpeed[] = {{.tokens = 577, .dim = 5632}};

// --- linear and gate_up

struct LinearCase {
  int64_t tokens = 1;
  int64_t n = 1;  // for gate_up: F, the width of one half
  int64_t k = 1;
};

inline constexpr LinearCase kLinearCases[] = {
    {.tokens = 1, .n = 1024, .k = 1280},  // decode
    {.tokens = 1, .n = 1, .k = 32},      {.tokens = 1, .n = 16, .k = 128},
    {.tokens = 2, .n = 17, .k = 130},  // one row and two columns too many
    {.tokens = 3, .n = 40, .k = 333},    {.tokens = 4, .n = 15, .k = 1},
    {.tokens = 7, .n = 33, .k = 96},     {.tokens = 16, .n = 48, .k = 256},
    {.tokens = 17, .n = 100, .k = 200},  {.tokens = 33, .n = 64, .k = 512},
    {.tokens = 67, .n = 31, .k = 160},   {.tokens = 40, .n = 700, .k = 300},  // shared by threads both ways
    {.tokens = 9, .n = 48, .k = 576},  // half a group of 128 is left over
};
inline constexpr int64_t kMaxTileTokens = 67;  // every token count up to here runs once on a small matrix

inline constexpr LinearCase kLinearSpeed[] = {
    {.tokens = 1, .n = 8192, .k = 5120},
    {.tokens = 8, .n = 8192, .k = 5120},
    {.tokens = 256, .n = 2048, .k = 5120},
    {.tokens = 577, .n = 5632, .k = 1408},  // one picture tile
};

// Kinds of weights beside each other, each after the plain one of its width and groups.
inline constexpr WeightSpec kWeightSpeed[] = {
    kBF16,
    kFp8,
    kInt4,
    {.kind = WeightKind::kInt4, .group_size = 128, .zeros = true},
    {.kind = WeightKind::kTable4, .group_size = 128, .table = kWideTable},
    {.kind = WeightKind::kInt4, .group_size = 32},
    {.kind = WeightKind::kInt4, .group_size = 32, .zeros = true},
    {.kind = WeightKind::kInt4, .group_size = 32, .scales = DType::kF16},                   // Q4_0
    {.kind = WeightKind::kInt4, .group_size = 32, .scales = DType::kF16, .offsets = true},  // Q4_1
    {.kind = WeightKind::kInt4,
     .group_size = 32,
     .scales = DType::kI8,
     .offsets = true,
     .factors = DType::kF16},                                                                     // Q4_K
    {.kind = WeightKind::kTable4, .group_size = 32, .scales = DType::kF16, .table = kWideTable},  // IQ4_NL
    {.kind = WeightKind::kTable4,
     .group_size = 32,
     .scales = DType::kI8,
     .table = kWideTable,
     .factors = DType::kF16},                                              // IQ4_XS
    {.kind = WeightKind::kTable4, .group_size = 32, .table = kE2M1Table},  // MXFP4
    {.kind = WeightKind::kInt4, .group_size = 64},
    {.kind = WeightKind::kTable4, .group_size = 64, .table = kWideTable},  // NF4
    {.kind = WeightKind::kInt4, .group_size = 16},
    {.kind = WeightKind::kInt4,
     .group_size = 16,
     .scales = DType::kI8,
     .offsets = true,
     .factors = DType::kF16},  // Q2_K
    {.kind = WeightKind::kTable4,
     .group_size = 16,
     .scales = DType::kF8E4M3,
     .table = kE2M1Table,
     .row_factors = true},  // NVFP4
    {.kind = WeightKind::kInt8, .group_size = 32},
    {.kind = WeightKind::kInt8,
     .group_size = 32,
     .scales = DType::kI8,
     .offsets = true,
     .factors = DType::kF16},  // Q5_K
    {.kind = WeightKind::kInt8, .group_size = 16},
    {.kind = WeightKind::kInt8, .group_size = 16, .scales = DType::kI8, .factors = DType::kF16},  // Q6_K
};
inline constexpr LinearCase kWeightSpeedShapes[] = {{.tokens = 1, .n = 8192, .k = 5120},
                                                    {.tokens = 8, .n = 8192, .k = 5120},
                                                    {.tokens = 64, .n = 8192, .k = 5120},
                                                    {.tokens = 512, .n = 8192, .k = 5120}};

// --- attention

struct AttentionSequence {
  int64_t kv_begin = 0;        // the chunk's start, or 0
  int64_t first_position = 0;  // of the first query
  int64_t length = 1;          // queries
};

struct AttentionCase {
  int num_kv_heads = 1;
  int group = 1;  // query heads per KV head
  int head_dim = 16;
  int block_size = 16;
  KvKind kv_format = KvKind::kF32;
  std::vector<AttentionSequence> sequences = {};

  int64_t num_tokens() const {
    int64_t n = 0;
    for (const AttentionSequence& s : sequences) n += s.length;
    return n;
  }
};

inline std::vector<AttentionCase> attention_cases() {
  const std::vector<AttentionSequence> mixed = {
      {.kv_begin = 0, .first_position = 100, .length = 1},    // decode
      {.kv_begin = 0, .first_position = 5, .length = 17},     // prefill slice, not aligned with blocks
      {.kv_begin = 64, .first_position = 64, .length = 1},    // first token of a chunk: sees itself only
      {.kv_begin = 128, .first_position = 130, .length = 20}  // slice inside a later chunk
  };
  std::vector<AttentionCase> all;
  for (int group : {1, 2, 3, 5, 8})
    for (int head_dim : {16, 64, 80, 128})
      for (KvKind format : {KvKind::kF32, KvKind::kBF16})
        all.push_back({.num_kv_heads = group == 5 ? 1 : 2,
                       .group = group,
                       .head_dim = head_dim,
                       .block_size = 16 << (all.size() % 3),
                       .kv_format = format,
                       .sequences = mixed});
  for (int block_size : {16, 32, 64}) {
    const auto one = [&](AttentionSequence s) {
      all.push_back({.num_kv_heads = 2,
                     .group = 5,
                     .head_dim = 64,
                     .block_size = block_size,
                     .kv_format = KvKind::kBF16,
                     .sequences = {s}});
    };
    one({.first_position = 0, .length = 1});
    one({.first_position = 15, .length = 1});
    one({.first_position = 16, .length = 1});
    one({.first_position = 700, .length = 1});
    one({.first_position = 1023, .length = 1});  // the CPU works on splits of 1024 keys
    one({.first_position = 2500, .length = 1});
    one({.first_position = 1000, .length = 67});
    one({.first_position = 0, .length = 67});
    one({.kv_begin = 192, .first_position = 192, .length = 40});
  }
  return all;
}

inline std::vector<AttentionCase> attention_speed_cases() {
  AttentionCase scout{
      .num_kv_heads = 8, .group = 5, .head_dim = 128, .block_size = 16, .kv_format = KvKind::kBF16};
  std::vector<AttentionCase> all;
  for (const AttentionSequence& s :
       {AttentionSequence{.first_position = 4095}, AttentionSequence{.first_position = 32767},
        AttentionSequence{.first_position = 512, .length = 512}}) {
    scout.sequences = {s};
    all.push_back(scout);
  }
  return all;
}

struct QkvCase {
  int64_t tokens = 1;
  int num_kv_heads = 1;
  int group = 1;
  int head_dim = 16;
  bool rope = false;
  bool qk_norm = false;
  bool q_scale = false;
  KvKind kv_format = KvKind::kF32;
};

inline std::vector<QkvCase> qkv_cases() {
  std::vector<QkvCase> all;
  for (int64_t tokens : {1, 3, 18})
    for (int head_dim : {16, 64, 80, 128})
      for (int flags = 0; flags < 8; ++flags)
        all.push_back({.tokens = tokens,
                       .num_kv_heads = 1 + int(all.size() % 3),
                       .group = 1 + int(all.size() % 5),
                       .head_dim = head_dim,
                       .rope = (flags & 1) != 0,
                       .qk_norm = (flags & 2) != 0,
                       .q_scale = (flags & 4) != 0,
                       .kv_format = all.size() % 2 ? KvKind::kBF16 : KvKind::kF32});
  return all;
}

// --- attention over pictures

struct TilesCase {
  int64_t tiles = 1;
  int64_t rows = 1;  // of one tile
  int num_heads = 1;
  int head_dim = 16;
};

inline constexpr TilesCase kTilesCases[] = {
    {.tiles = 2, .rows = 577, .num_heads = 1, .head_dim = 88},  // Scout's tile
    {.tiles = 3, .rows = 1, .num_heads = 2, .head_dim = 32},    // a row alone sees itself
    {.tiles = 3, .rows = 5, .num_heads = 3, .head_dim = 2},
    {.tiles = 4, .rows = 16, .num_heads = 2, .head_dim = 32},
    {.tiles = 3, .rows = 17, .num_heads = 2, .head_dim = 88},
    {.tiles = 2, .rows = 31, .num_heads = 1, .head_dim = 18},
    {.tiles = 7, .rows = 33, .num_heads = 2, .head_dim = 64},
    {.tiles = 2, .rows = 65, .num_heads = 5, .head_dim = 40},
    {.tiles = 2, .rows = 1040, .num_heads = 1, .head_dim = 14},  // the CPU works on splits of 1024 keys
};

inline constexpr TilesCase kTilesSpeed[] = {{.tiles = 1, .rows = 577, .num_heads = 16, .head_dim = 88}};

// --- mixture of experts

enum class RoutingPattern { kRandom, kAllToOne, kFewExperts };

struct ExpertsCase {
  int64_t tokens = 1;
  int64_t hidden = 64;
  int64_t width = 48;  // F
  int64_t experts = 4;
  int64_t top_k = 1;
  RoutingPattern pattern = RoutingPattern::kRandom;
};

inline constexpr ExpertsCase kExpertsCases[] = {
    {.tokens = 1, .hidden = 256, .width = 128, .experts = 16, .top_k = 1},  // decode
    {.tokens = 1, .hidden = 130, .width = 40, .experts = 4, .top_k = 2},
    {.tokens = 5, .hidden = 96, .width = 33, .experts = 4, .top_k = 2},
    {.tokens = 19, .hidden = 64, .width = 48, .experts = 16, .top_k = 1},
    {.tokens = 33,
     .hidden = 160,
     .width = 31,
     .experts = 4,
     .top_k = 1,
     .pattern = RoutingPattern::kAllToOne},
    {.tokens = 40, .hidden = 64, .width = 16, .experts = 128, .top_k = 2},  // most experts are empty
    {.tokens = 67,
     .hidden = 64,
     .width = 32,
     .experts = 16,
     .top_k = 2,
     .pattern = RoutingPattern::kFewExperts},
};

inline constexpr ExpertsCase kExpertsSpeed[] = {
    {.tokens = 1, .hidden = 5120, .width = 8192, .experts = 4, .top_k = 1},
    {.tokens = 8, .hidden = 5120, .width = 8192, .experts = 4, .top_k = 1},
    {.tokens = 256, .hidden = 2048, .width = 1024, .experts = 4, .top_k = 1},
};

struct RouteCase {
  int64_t tokens = 1;
  int64_t hidden = 64;
  int64_t experts = 4;
  int top_k = 1;
};

inline constexpr RouteCase kRouteCases[] = {
    {.tokens = 1, .hidden = 1280, .experts = 16, .top_k = 1},
    {.tokens = 5, .hidden = 333, .experts = 4, .top_k = 2},
    {.tokens = 67, .hidden = 64, .experts = 128, .top_k = 2},
    {.tokens = 3, .hidden = 17, .experts = 5, .top_k = 5},
    {.tokens = 2, .hidden = 32, .experts = 1, .top_k = 1},
};

}  // namespace llama4rt::cases
