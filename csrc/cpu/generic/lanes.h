// What every vector type starts from: the number of lanes, and how the bodies of inner loops are inlined.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "base/dtype.h"

#ifndef LLAMA4RT_ISA
#error "this file belongs to a table: include it from a table's .cpp, see cpu/generic/vec.h"
#endif

// For the bodies of inner loops, whose arrays of Vec must become registers of the caller.
#define LLAMA4RT_INLINE inline __attribute__((always_inline))
#define LLAMA4RT_INLINE_LAMBDA __attribute__((always_inline))

namespace llama4rt::cpu::LLAMA4RT_ISA {

inline constexpr int kLanes = 16;

inline int32_t load_i32(const void* p) {
  int32_t x;
  std::memcpy(&x, p, 4);
  return x;
}

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
