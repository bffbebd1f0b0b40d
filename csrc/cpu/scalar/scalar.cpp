// The scalar table. This file is built with its own instruction-set flags; everything it includes from
// cpu/generic lands in namespace llama4rt::cpu::scalar, so that no instruction leaks into code other CPUs
// run.
#define LLAMA4RT_ISA scalar
#define LLAMA4RT_ISA_HEADER "cpu/scalar/int_vec_scalar.h"
#include "cpu/generic/table.h"

namespace llama4rt::cpu::scalar {

const Kernels& kernels() {
  static constexpr Kernels table = make_table("scalar");
  return table;
}

}  // namespace llama4rt::cpu::scalar
