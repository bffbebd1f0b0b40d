// Launchers of kernels that work row by row. Like all launchers: plain functions over views of device memory.
// A launcher chooses tile and grid; it checks what its kernel relies on and nothing else, because Backend has
// checked shapes.
#pragma once

#include "base/tensor.h"
#include "cuda/runtime.h"

namespace llama4rt::cuda {

// out[t] = x[t] / rms(x[t]) * weight; with a residual [T, dim]: residual += x first, and that is normalised.
void run_rmsnorm(Stream& stream, Tensor out, Tensor x, Tensor weight, float eps, Tensor residual = {});

}  // namespace llama4rt::cuda
