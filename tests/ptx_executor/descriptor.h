// The descriptor of a matrix in shared memory, as wgmma takes it. PTX ISA, "Matrix Descriptor Format": all byte counts are
// stored without their low four bits.
//   bits 0-13 start, 16-29 leading dimension offset, 32-45 stride dimension offset, 49-51 base offset, 62-63 swizzling
//
// Of a K-major operand, rows being those of A or the columns of B, k running along a row: without swizzling, matrices of 8
// rows of 16 bytes stand in 128 bytes each, "leading" apart along k and "stride" along the rows. With it, 8 rows of 128,
// 64 or 32 bytes stand together, "stride" apart; "leading" is not used, and the start moves along k within the row.
#pragma once

#include <cstdint>

#include "ptx_executor/swizzle.h"

namespace llama4rt::ptx_executor {

struct Descriptor {
  uint32_t start = 0, leading = 0, stride = 0, base_offset = 0;
  Swizzling swizzling = Swizzling::kNone;
  bool reserved_bits = false;  // some are set
};

constexpr Descriptor read_descriptor(uint64_t bits) {
  const auto field = [bits](int at, int width) {
    return uint32_t(bits >> at & ((uint64_t(1) << width) - 1));
  };
  return {.start = field(0, 14) << 4,
          .leading = field(16, 14) << 4,
          .stride = field(32, 14) << 4,
          .base_offset = field(49, 3),
          .swizzling = Swizzling(field(62, 2)),
          .reserved_bits = field(14, 2) != 0 || field(30, 2) != 0 || field(46, 3) != 0 || field(52, 10) != 0};
}

// Where 16 bytes (8 elements of 16 bits) lie: those of this row, chunk 0 or 1 along k.
constexpr uint32_t chunk_address(const Descriptor& d, uint32_t row, uint32_t chunk) {
  const uint32_t group = d.start + row / 8 * d.stride;
  if (d.swizzling == Swizzling::kNone) return group + row % 8 * 16 + chunk * d.leading;
  return swizzle(group + row % 8 * swizzle_row(d.swizzling) + chunk * 16, d.swizzling);
}

}  // namespace llama4rt::ptx_executor
