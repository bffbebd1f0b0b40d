#include "weights/weight_formats.h"

#include "base/error.h"

namespace llama4rt {

std::string weight_kind_names() {
  std::string names;
  for (size_t i = 0; i < kWeightFormats.size(); ++i) {
    if (i > 0) names += i + 1 == kWeightFormats.size() ? " and " : ", ";
    names += kWeightFormats[i].name;
  }
  return names;
}

std::string weight_refusal(const WeightFormat& format, bool on_gpu) {
  if (!on_gpu || format.on_gpu) return "";
  // The narrowest kind of a GPU that keeps as many bits.
  const WeightFormat* instead = &kWeightFormats.front();
  for (const WeightFormat& other : kWeightFormats)
    if (other.on_gpu && other.bits >= format.bits && other.bits < instead->bits) instead = &other;
  return error_text("\"", format.name, "\" weights are for CPUs; on a GPU use \"", instead->name, "\"");
}

}  // namespace llama4rt
