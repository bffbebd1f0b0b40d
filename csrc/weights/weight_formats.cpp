#include "weights/weight_formats.h"

#include "base/error.h"
#include "weights/weight.h"

namespace llama4rt {
namespace {

// "a, b and c".   last: " and " or " or "
template <class Items, class Name>
std::string listed(const Items& items, const char* last, const Name& name) {
  std::string text;
  for (size_t i = 0; i < items.size(); ++i)
    text += error_text(i == 0 ? "" : i + 1 == items.size() ? last : ", ", name(items[i]));
  return text;
}

}  // namespace

std::string weight_kind_names() {
  return listed(kWeightFormats, " and ", [](const WeightFormat& format) { return format.name; });
}

std::string group_size_names() {
  return listed(kGroupSizes, " or ", [](int size) { return size; });
}

std::string weight_refusal(const WeightFormat& format, bool on_gpu) {
  if (!on_gpu || format.on_gpu) return "";
  // The narrowest kind of a GPU that keeps as many bits.
  const WeightFormat* instead = &kWeightFormats.front();
  for (const WeightFormat& other : kWeightFormats)
    if (other.on_gpu && other.bits >= format.bits && other.bits < instead->bits) instead = &other;
  return error_text("\"", format.name, "\" weights are for CPUs; on a GPU use \"", instead->name, "\"");
}

std::string weight_refusal(const Weight& w) {
  if (!is_gpu_layout(w.layout)) return "";
  const WeightFormat& format = w.format();
  if (std::string refusal = weight_refusal(format, true); !refusal.empty()) return refusal;
  const auto for_cpus = [&](const auto&... what) {
    return error_text('"', format.name, "\" weights ", what..., " are for CPUs; a GPU takes them ",
                      format.zeros_on_gpu ? "symmetric or with zero points" : "symmetric", ", in groups of ",
                      kSmallestGpuGroup, " or more, with BF16 or F32 scales");
  };
  if (w.offsets) return for_cpus("with offsets");
  if (format.is_scaled && w.scale_dtype != DType::kBF16 && w.scale_dtype != DType::kF32)
    return for_cpus("with ", dtype_name(w.scale_dtype), " scales");
  if (w.zeros && !format.zeros_on_gpu) return for_cpus("with zero points");
  if (format.is_scaled && w.group_size < kSmallestGpuGroup) return for_cpus("in groups of ", w.group_size);
  return "";
}

}  // namespace llama4rt
