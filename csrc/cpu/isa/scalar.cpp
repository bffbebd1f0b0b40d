// The scalar table. This file is built with its own instruction-set flags; everything it includes from
// cpu/generic lands in namespace llama4rt::cpu::scalar, so that no instruction leaks into code other CPUs
// run.
#define LLAMA4RT_ISA scalar
#include "cpu/generic/machine_limits.h"
#include "cpu/generic/rmsnorm.h"
#include "cpu/kernels.h"

namespace llama4rt::cpu::scalar {

const Kernels& kernels() {
  static constexpr Kernels table{
      .isa = "scalar",
      .rmsnorm_row = rmsnorm_row,
      .read_sum = read_sum,
      .fma_chains = fma_chains,
  };
  return table;
}

}  // namespace llama4rt::cpu::scalar
