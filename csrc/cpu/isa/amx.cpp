// The amx table: that of avx512_vnni, with tile products for many rows. This file is built with its own
// instruction-set flags; everything it includes from cpu/generic lands in namespace llama4rt::cpu::amx, so
// that no instruction leaks into code other CPUs run.
#define LLAMA4RT_ISA amx
#define LLAMA4RT_ISA_AVX512
#define LLAMA4RT_ISA_VNNI
#include "cpu/generic/amx_product.h"
#include "cpu/generic/table.h"

namespace llama4rt::cpu::amx {

namespace {
constexpr Kernels amx_table() {
  Kernels table = make_table("amx");
  table.split_row = split_row;
  table.min_tiled_rows = 8;  // below, unpacking costs more than the tiles save
  table.multiply = multiply_with_tiles;
  table.product_scratch_bytes = tile_scratch_bytes;
  return table;
}
}  // namespace

const Kernels& kernels() {
  static constexpr Kernels table = amx_table();
  return table;
}

}  // namespace llama4rt::cpu::amx
