// The avx512 table. This file is built with its own instruction-set flags; everything it includes from
// cpu/generic lands in namespace llama4rt::cpu::avx512, so that no instruction leaks into code other CPUs
// run.
#define LLAMA4RT_ISA avx512
#define LLAMA4RT_ISA_HEADER "cpu/x86/dot_avx512.h"
#include "cpu/generic/table.h"

namespace llama4rt::cpu::avx512 {

const Kernels& kernels() {
  static constexpr Kernels table = make_table("avx512");
  return table;
}

}  // namespace llama4rt::cpu::avx512
