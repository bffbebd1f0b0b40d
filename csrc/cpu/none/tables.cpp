// For processors without a folder of their own: the scalar table stays alone.
#include "cpu/tables.h"

namespace llama4rt::cpu {

std::span<const Table> vector_tables() { return {}; }

}  // namespace llama4rt::cpu
