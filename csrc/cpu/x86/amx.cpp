// The amx table: that of avx512_vnni, with AMX tiles for many rows. This file is built with its own
// instruction-set flags; everything it includes from cpu/generic lands in namespace llama4rt::cpu::amx, so
// that no instruction leaks into code other CPUs run.
#define LLAMA4RT_ISA amx
#define LLAMA4RT_ISA_HEADER "cpu/x86/dot_avx512_vnni.h"
#include "cpu/generic/table.h"
#include "cpu/x86/amx_linear.h"

namespace llama4rt::cpu::amx {

namespace {
constexpr Kernels amx_table() {
  Kernels table = make_table("amx");
  table.pack_tile_row = pack_tile_row;
  table.min_tiled_rows = 8;  // below, unpacking costs more than the tiles save
  table.linear = linear_unit_with_tiles;
  table.linear_scratch_bytes = tile_scratch_bytes;
  return table;
}
}  // namespace

const Kernels& kernels() {
  static constexpr Kernels table = amx_table();
  return table;
}

}  // namespace llama4rt::cpu::amx
