// The avx_vnni table: AVX2 and the dot products of VNNI, for processors that have them without AVX-512. This
// file is built with its own instruction-set flags; everything it includes from cpu/generic lands in
// namespace llama4rt::cpu::avx_vnni, so that no instruction leaks into code other CPUs run.
#define LLAMA4RT_ISA avx_vnni
#define LLAMA4RT_ISA_HEADER "cpu/x86/dot_avx_vnni.h"
#include "cpu/generic/table.h"

namespace llama4rt::cpu::avx_vnni {

const Kernels& kernels() {
  static constexpr Kernels table = make_table("avx_vnni");
  return table;
}

}  // namespace llama4rt::cpu::avx_vnni
