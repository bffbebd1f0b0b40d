// The avx2 table. This file is built with its own instruction-set flags; everything it includes from
// cpu/generic lands in namespace llama4rt::cpu::avx2, so that no instruction leaks into code other CPUs run.
#define LLAMA4RT_ISA avx2
#define LLAMA4RT_ISA_AVX2
#include <immintrin.h>

#include "cpu/generic/machine_limits.h"
#include "cpu/generic/rmsnorm.h"
#include "cpu/kernels.h"

namespace llama4rt::cpu::avx2 {

const Kernels& kernels() {
  static constexpr Kernels table{
      .isa = "avx2",
      .rmsnorm_row = rmsnorm_row,
      .read_sum = read_sum,
      .fma_chains = fma_chains,
  };
  return table;
}

}  // namespace llama4rt::cpu::avx2
