// The linear ops of the amx table on emulated tiles, for processors that have AVX-512 VNNI without AMX; the other kernels
// are those of avx512_vnni.
#define LLAMA4RT_ISA amx_twin
#define LLAMA4RT_ISA_HEADER "cpu/x86/dot_avx512_vnni.h"
#include "cpu/x86/amx_emulated.h"
#include "cpu/x86/amx_linear.h"

namespace llama4rt::cpu {

namespace avx512_vnni {
const Kernels& kernels();
}

namespace amx_twin {

const Kernels& kernels() {
  static const Kernels table = [] {
    Kernels t = avx512_vnni::kernels();
    t.isa = "amx_twin";
    t.pack_tile_row = pack_tile_row;
    t.min_tiled_rows = 8;
    t.linear = linear_unit_with_tiles;
    t.linear_scratch_bytes = tile_scratch_bytes;
    return t;
  }();
  return table;
}

}  // namespace amx_twin
}  // namespace llama4rt::cpu
