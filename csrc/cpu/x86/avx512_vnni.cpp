// The avx512_vnni table. This file is built with its own instruction-set flags; everything it includes from
// cpu/generic lands in namespace llama4rt::cpu::avx512_vnni, so that no instruction leaks into code other
// CPUs run.
#define LLAMA4RT_ISA avx512_vnni
#define LLAMA4RT_ISA_HEADER "cpu/x86/dot_avx512_vnni.h"
#include "cpu/generic/table.h"

namespace llama4rt::cpu::avx512_vnni {

const Kernels& kernels() {
  static constexpr Kernels table = make_table("avx512_vnni");
  return table;
}

}  // namespace llama4rt::cpu::avx512_vnni
