// How rows of 128, 64 or 32 bytes are permuted in shared memory. PTX ISA, "Swizzling modes": within a pattern of 8 rows the
// 16-byte chunks of a row are exchanged by the number of the row, that is: bits of the address are combined with bits
// three places above. It works on addresses, so a tile has to start where the pattern does.
#pragma once

#include <cstdint>

namespace llama4rt::ptx_executor {

// As a matrix descriptor numbers them.
enum class Swizzling : uint32_t { kNone = 0, k128 = 1, k64 = 2, k32 = 3 };

// Bytes of a row, and of the whole pattern.
constexpr uint32_t swizzle_row(Swizzling s) {
  switch (s) {
    case Swizzling::kNone:
      return 16;
    case Swizzling::k128:
      return 128;
    case Swizzling::k64:
      return 64;
    case Swizzling::k32:
      return 32;
  }
  return 0;
}
constexpr uint32_t swizzle_pattern(Swizzling s) { return s == Swizzling::kNone ? 128 : 8 * swizzle_row(s); }

// Where the byte that would lie at `address` lies.
constexpr uint32_t swizzle(uint32_t address, Swizzling s) {
  if (s == Swizzling::kNone) return address;
  // Chunks of a row are 16 bytes; 128-byte rows have 8, chosen by the three bits of the row's number.
  const uint32_t chunks = swizzle_row(s) / 16;
  return address ^ (address >> 7 & (chunks - 1)) << 4;
}

}  // namespace llama4rt::ptx_executor
