// Shared by launchers of row kernels: alignment, and grids that cut rows into parts.
#pragma once

#include <cstdint>

#include "base/checked_math.h"
#include "base/tensor.h"
#include "cuda/launch_shape.h"

namespace llama4rt::cuda {

// Whether every row starts on 16 bytes, so that four floats move as one.
inline bool rows_aligned(const Tensor& t) {
  return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && (t.rank <= 1 || t.stride0 % 4 == 0);
}

// One block per row and part of a row.
inline LaunchShape row_pieces(int64_t rows, int64_t columns, int64_t columns_per_block, int threads) {
  return {.grid_x = int(rows), .grid_y = int(ceil_div(columns, columns_per_block)), .threads = threads};
}

}  // namespace llama4rt::cuda
