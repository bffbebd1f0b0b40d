// What kernels must know of weights that the fixed kernels (device/weight_tiles.cuh) do not take: of any kind, with
// scales of any type, with offsets, in groups of any size. Plain data, filled in on the host
// (kernels/general_weights.h).
#pragma once

#include <cstdint>

namespace llama4rt::cuda {

// How scales and offsets are stored.
enum class NumberType : uint8_t { kBF16, kF16, kF32, kI8, kF8 };

struct GeneralArgs {
  uint32_t table_low[4] = {};   // codes of a table: the low bytes of sixteen bf16
  uint32_t table_high[4] = {};  // their high bytes
  int zero = 0;                 // of groups without zero points
  int group_shift = 0;          // log2 of the columns of a group
  NumberType numbers = NumberType::kBF16;
  int number_bytes = 2;
  bool has_zeros = false;
  bool has_factors = false;  // kI8 and kF8
  int boxes = 0;             // of further columns in a split, with offsets (device/group_sums.cuh)
};

}  // namespace llama4rt::cuda
