// What this machine can do at best, measured now: the denominators of every benchmark. Not used while
// serving.
#pragma once

#include "base/thread_pool.h"

namespace llama4rt::cpu {

struct MachineLimits {
  double read_gbps =
      0;  // 1e9 bytes per second that all threads together read from a buffer far above the caches
  double fma_gflops = 0;  // 1e9 fp32 flops per second of independent fma chains (an fma counts as 2)
  double int8_gops = 0;   // 1e9 operations per second of independent byte products, counted likewise
};

// Takes about half a second and 512 MiB. Uses the widest vectors this machine has, whatever LLAMA4RT_CPU_ISA
// says.
MachineLimits measure_machine(ThreadPool& pool);
MachineLimits measure_machine(int num_threads);  // 0: all CPUs of this process

}  // namespace llama4rt::cpu
