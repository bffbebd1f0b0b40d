// Kernels: the inner loops of the CPU backend for one instruction set, as a table of function pointers.
// Each cpu/isa/*.cpp fills one; dispatch.cpp chooses. A kernel works on one unit of output; cpu_backend.cpp
// splits work.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "format/quant.h"

namespace llama4rt::cpu {

struct Kernels {
  const char* isa;  // "scalar", "avx2", "avx512", "avx512_vnni", "amx"

  // out[i] = x[i] * rsqrt(mean(x^2) + eps) * weight[i].   x, weight, out: [dim]
  void (*rmsnorm_row)(float* out, const float* x, const float* weight, int64_t dim, float eps);

  // The machine's limits, for benchmarks. read_sum: data of `bytes` (a multiple of 64) summed as fp32.
  // fma_chains: runs `turns` rounds of independent fmas and returns the flops done; sink: one float.
  float (*read_sum)(const void* data, int64_t bytes);
  int64_t (*fma_chains)(int64_t turns, float* sink);
};

}  // namespace llama4rt::cpu
