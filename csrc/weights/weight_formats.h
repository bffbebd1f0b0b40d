// The table of weight formats: one row says what a stored value is and how it becomes a number. Layouts, packer,
// readers, options and messages ask the table; kernels choose their code by a switch without default, so that the
// compiler lists the places a new kind must visit.
//
// A weight maps an input vector of K values to N outputs:  y[n] = sum_k x[k] * w[n, k].  Of row n, with scale s, zero
// point z and offset o of the group k / group_size, and each product and sum rounded to fp32:
//   kBFloat16:  w[n, k] = q[n, k], as stored
//   kInteger:   w[n, k] = (q[n, k] - z) * s + o       without zero points z is 0 where there are offsets, else `zero`
//   kFloat8:    w[n, k] = e4m3(q[n, k]) * s           q is never one of the two codes of NaN
//   kTable:     w[n, k] = table[q[n, k]] * s          sixteen int8, of the whole weight
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace llama4rt {

enum class WeightKind : uint8_t { kBF16, kInt8, kInt4, kFp8, kTable4 };

// What the stored bits of a value mean before they are scaled.
enum class CodeMeaning : uint8_t { kBFloat16, kInteger, kFloat8, kTable };

// What the codes of a kTable weight name.
using CodeTable = std::array<int8_t, 16>;
// Evenly spaced, symmetric: of weights that nobody gave a table.
inline constexpr CodeTable kEvenTable = {-120, -104, -88, -72, -56, -40, -24, -8,
                                         8,    24,   40,  56,  72,  88,  104, 120};

struct WeightFormat {
  WeightKind kind = WeightKind::kBF16;
  std::string_view name = {};  // in engine files, options and messages
  int bits = 16;               // of a stored value: 16, 8 or 4
  CodeMeaning meaning = CodeMeaning::kBFloat16;
  bool is_scaled = false;         // values come in groups of K that share a scale
  bool may_have_zeros = false;    // zero points for each group
  bool may_have_offsets = false;  // offsets for each group
  int zero = 0;                   // the code of integers that stands for 0 without zero points and offsets
  bool from_values = false;       // a build can choose it: values are quantised to it (weights/quantize.h)
  float code_deviation = 0;       // of uniformly random codes: random weights choose their scale by it
};

inline constexpr std::array kWeightFormats = {
    WeightFormat{.kind = WeightKind::kBF16, .name = "bf16", .from_values = true},
    WeightFormat{.kind = WeightKind::kInt8,
                 .name = "int8",
                 .bits = 8,
                 .meaning = CodeMeaning::kInteger,
                 .is_scaled = true,
                 .may_have_zeros = true,
                 .may_have_offsets = true,
                 .zero = 128,
                 .from_values = true,
                 .code_deviation = 74.0f},
    WeightFormat{.kind = WeightKind::kInt4,
                 .name = "int4",
                 .bits = 4,
                 .meaning = CodeMeaning::kInteger,
                 .is_scaled = true,
                 .may_have_zeros = true,
                 .may_have_offsets = true,
                 .zero = 8,
                 .from_values = true,
                 .code_deviation = 4.6f},
    WeightFormat{.kind = WeightKind::kFp8,
                 .name = "fp8",
                 .bits = 8,
                 .meaning = CodeMeaning::kFloat8,
                 .is_scaled = true,
                 .from_values = true,
                 .code_deviation = 107.0f},
    WeightFormat{.kind = WeightKind::kTable4,
                 .name = "table4",
                 .bits = 4,
                 .meaning = CodeMeaning::kTable,
                 .is_scaled = true,
                 .code_deviation = 73.8f},  // of kEvenTable
};

constexpr const WeightFormat& weight_format(WeightKind kind) { return kWeightFormats[size_t(kind)]; }
constexpr std::string_view weight_kind_name(WeightKind kind) { return weight_format(kind).name; }

constexpr std::optional<WeightKind> find_weight_kind(std::string_view name) {
  for (const WeightFormat& format : kWeightFormats)
    if (format.name == name) return format.kind;
  return std::nullopt;
}

// "bf16, int8 and int4", for messages.
std::string weight_kind_names();

static_assert([] {
  for (size_t i = 0; i < kWeightFormats.size(); ++i)
    if (size_t(kWeightFormats[i].kind) != i) return false;
  return true;
}());

// The group sizes an engine file may use. 128 also keeps a group's integer dot product (8-bit q, 16-bit x)
// inside int32.
inline constexpr std::array kGroupSizes = {16, 32, 64, 128};
constexpr bool valid_group_size(int64_t group_size) {
  for (const int size : kGroupSizes)
    if (size == group_size) return true;
  return false;
}
// "16, 32, 64 or 128", for messages.
std::string group_size_names();

// body.template operator()<kind>(): the one place that turns a weight's kind into a template argument.
template <class Body>
constexpr decltype(auto) with_weight_kind(WeightKind kind, const Body& body) {
  switch (kind) {
    case WeightKind::kBF16:
      return body.template operator()<WeightKind::kBF16>();
    case WeightKind::kInt8:
      return body.template operator()<WeightKind::kInt8>();
    case WeightKind::kInt4:
      return body.template operator()<WeightKind::kInt4>();
    case WeightKind::kFp8:
      return body.template operator()<WeightKind::kFp8>();
    case WeightKind::kTable4:
      return body.template operator()<WeightKind::kTable4>();
  }
  __builtin_unreachable();
}

}  // namespace llama4rt
