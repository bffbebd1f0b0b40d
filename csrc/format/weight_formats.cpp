#include "format/weight_formats.h"

namespace llama4rt {

std::string weight_kind_names() {
  std::string names;
  for (size_t i = 0; i < kWeightFormats.size(); ++i) {
    if (i > 0) names += i + 1 == kWeightFormats.size() ? " and " : ", ";
    names += kWeightFormats[i].name;
  }
  return names;
}

}  // namespace llama4rt
