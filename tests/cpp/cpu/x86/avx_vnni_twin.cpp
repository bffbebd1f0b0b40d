// The avx_vnni table once more, in the encoding of AVX-512 (see the CMakeLists.txt beside): what makes it
// runnable on processors that have VNNI only there.
#define LLAMA4RT_ISA avx_vnni_twin
#define LLAMA4RT_ISA_HEADER "cpu/x86/avx_vnni_twin.h"
#include "cpu/generic/table.h"

namespace llama4rt::cpu::avx_vnni_twin {

const Kernels& kernels() {
  static constexpr Kernels table = make_table("avx_vnni_twin");
  return table;
}

}  // namespace llama4rt::cpu::avx_vnni_twin
