// Table: one set of kernels and when it runs. cpu/scalar has the one that runs everywhere; the folder that
// cmake/cpu_isa.cmake chooses for the processor built for (x86, or none) has the others.
#pragma once

#include <span>

#include "cpu/kernels.h"

namespace llama4rt::cpu {

struct Table {
  const char* name;     // as in LLAMA4RT_CPU_ISA
  bool (*supported)();  // by this processor and operating system
  const Kernels& (*kernels)();
};

// The tables with vectors, slowest first.
std::span<const Table> vector_tables();

namespace scalar {
const Kernels& kernels();
}

}  // namespace llama4rt::cpu
