// The avx2 table. This file is built with its own instruction-set flags; everything it includes from
// cpu/generic lands in namespace llama4rt::cpu::avx2, so that no instruction leaks into code other CPUs run.
#define LLAMA4RT_ISA avx2
#define LLAMA4RT_ISA_HEADER "cpu/x86/dot_avx2.h"
#include "cpu/generic/table.h"

namespace llama4rt::cpu::avx2 {

const Kernels& kernels() {
  static constexpr Kernels table = make_table("avx2");
  return table;
}

}  // namespace llama4rt::cpu::avx2
