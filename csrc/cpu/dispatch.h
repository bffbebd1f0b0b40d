// Chooses the table of inner loops for this machine, once.
#pragma once

#include <string>
#include <vector>

#include "cpu/kernels.h"

namespace llama4rt::cpu {

// The best table this CPU and operating system support, or the one LLAMA4RT_CPU_ISA names.
// Throws kConfig when that name is unknown or the machine lacks it.
const Kernels& select_kernels();

// A table by name; throws as above.
const Kernels& kernels_by_name(const std::string& isa);

// Names of the tables that run here, slowest first.
std::vector<std::string> supported_isas();

}  // namespace llama4rt::cpu
