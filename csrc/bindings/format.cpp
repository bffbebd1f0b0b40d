// Placeholder until the file classes are bound.
#include "bindings/bindings.h"

namespace llama4rt {
void bind_format(pybind11::module_&) {}
}  // namespace llama4rt
