// The table of weight formats: one row says what a stored value is and how it becomes a number. Layouts, packer, readers,
// options and messages ask the table; kernels choose their code by a switch without default, so that the compiler lists
// the places a new kind must visit.
//
// A weight maps an input vector of K values to N outputs:  y[n] = sum_k x[k] * w[n, k].
//   kBFloat16:  w[n, k] as stored
//   kInteger:   w[n, k] = (q[n, k] - z) * scale[n, k / group]     z = zero[n, k / group], or the format's own
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace llama4rt {

enum class WeightKind : uint8_t { kBF16, kInt8, kInt4 };

// What the stored bits of a value mean before they are scaled.
enum class CodeMeaning : uint8_t { kBFloat16, kInteger };

struct WeightFormat {
  WeightKind kind;
  std::string_view name;  // in engine files, options and messages
  int bits;               // of a stored value: 16, 8 or 4
  CodeMeaning meaning;
  bool is_scaled;        // values come in groups of K that share a scale
  bool may_have_zeros;   // zero points for each group
  int zero;              // the code that stands for 0 without zero points
  bool on_gpu;           // has CUDA kernels
  float code_deviation;  // of uniformly random codes: random weights choose their scale by it
};

inline constexpr std::array kWeightFormats = {
    WeightFormat{WeightKind::kBF16, "bf16", 16, CodeMeaning::kBFloat16, false, false, 0, true, 0},
    WeightFormat{WeightKind::kInt8, "int8", 8, CodeMeaning::kInteger, true, false, 128, true, 74.0f},
    WeightFormat{WeightKind::kInt4, "int4", 4, CodeMeaning::kInteger, true, true, 8, true, 4.6f},
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

// Why weights of this format cannot be used on a GPU, or on a CPU: a sentence, or empty when they can.
std::string weight_refusal(const WeightFormat& format, bool on_gpu);

static_assert([] {
  for (size_t i = 0; i < kWeightFormats.size(); ++i)
    if (size_t(kWeightFormats[i].kind) != i) return false;
  return true;
}());

// The group sizes an engine file may use. 128 also keeps a group's integer dot product (8-bit q, 16-bit x)
// inside int32.
inline constexpr std::array kGroupSizes = {32, 64, 128};
constexpr bool valid_group_size(int64_t group_size) {
  for (const int size : kGroupSizes)
    if (size == group_size) return true;
  return false;
}

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
  }
  __builtin_unreachable();
}

}  // namespace llama4rt
