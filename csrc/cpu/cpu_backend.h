// The CPU backend: a thread pool and a table of inner loops chosen for this machine.
#pragma once

#include <memory>

#include "ops/backend.h"

namespace llama4rt {

// num_threads 0: all CPUs of this process. The instruction set follows LLAMA4RT_CPU_ISA, or the best this
// machine has.
std::unique_ptr<Backend> make_cpu_backend(int num_threads);

}  // namespace llama4rt
