// TensorMap: describes a tensor in global memory to TMA copies. Made on the host, passed to kernels
// by value as `const __grid_constant__ TensorMap`. 128 opaque bytes that only make_tensor_map and ptx/tma.cuh
// look into.
#pragma once

#include <cstdint>

namespace llama4rt::cuda {

struct alignas(64) TensorMap {
  unsigned char bytes[128];
};

// How the rows of a box are permuted in shared memory, so that 8 rows of a column lie in 8 different banks.
// Values as in the descriptor of a wgmma operand.
enum class Swizzle : int { kNone = 0, k128B = 1, k64B = 2, k32B = 3 };

// A matrix of 16-bit values: [rows, columns], row_stride_bytes apart, read in boxes of [box_rows,
// box_columns]. Throws Error(kInternal) for what the hardware refuses: base and stride in multiples of 16
// bytes, a box no wider than its swizzle, at most 256 rows of it.
TensorMap make_tensor_map_16bit(const void* base, int64_t rows, int64_t columns, int64_t row_stride_bytes,
                                int box_rows, int box_columns, Swizzle swizzle);

}  // namespace llama4rt::cuda
