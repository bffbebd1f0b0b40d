// Placeholder until the engine is bound.
#include "bindings/bindings.h"

namespace llama4rt {
void bind_engine(pybind11::module_&) {}
}  // namespace llama4rt
