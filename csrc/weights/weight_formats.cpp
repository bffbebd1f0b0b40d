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

std::string weight_refusal(const Weight& w) {
  if (!is_gpu_layout(w.layout) || !has_factors(w.scale_dtype)) return "";
  const bool of_rows = w.row_factors && w.k > kFactorInputs;  // of shorter rows they are the same
  if (w.factor_dtype == DType::kF32 && !of_rows) return "";
  return error_text('"', w.format().name, "\" weights with factors of ", of_rows ? "rows" : "halves",
                    " are for CPUs; a GPU takes them in F32, one of ", kFactorInputs, " inputs");
}

std::string group_size_names() {
  return listed(kGroupSizes, " or ", [](int size) { return size; });
}

}  // namespace llama4rt
