// Where stored tensors lie in one allocation: one after the other, each at a multiple of 256 bytes.
#pragma once

#include <cstdint>

#include "base/checked_math.h"

namespace llama4rt {

inline constexpr int64_t kPlacedAlignment = 256;
constexpr int64_t placed_bytes(int64_t bytes) { return round_up(bytes, kPlacedAlignment); }

}  // namespace llama4rt
