// 1 / x for positive x.
#pragma once

#include "cuda/ptx/math.cuh"

namespace llama4rt::cuda {

// To an ulp, and exact for powers of two: a Newton step from rsqrt(x)^2. The division of C++ would be a call
// of a subroutine, for which kernels spill registers.
LLAMA4RT_DEVICE float reciprocal(float x) {
  const float root = ptx::rsqrt(x), guess = root * root;
  return guess * ptx::fma(-x, guess, 2.0f);
}

}  // namespace llama4rt::cuda
