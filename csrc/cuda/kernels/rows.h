// Launchers of kernels that work row by row: plain functions over views of device memory, because each op has
// one kernel, which takes everything and needs no scratch. (Where kernels are chosen, a launcher is a struct
// of supports(), scratch_bytes() and run().) A launcher chooses the grid; it checks what its kernel relies on
// and nothing else, because Ops has checked shapes. Rows may start anywhere; those that start on 16 bytes
// are read and written faster, with the same bits.
#pragma once

#include "base/tensor.h"
#include "cuda/runtime.h"
#include "weights/weight.h"

namespace llama4rt::cuda {

// out[t] = table[ids[t]]; NaN where ids[t] is not in the table.
void run_embed(Stream& stream, Tensor out, const Weight& table, Tensor ids);
// out[i] = x[rows[i]]
void run_gather_rows(Stream& stream, Tensor out, Tensor x, Tensor rows);
// x[rows[i]] = src[i]
void run_scatter_rows(Stream& stream, Tensor x, Tensor rows, Tensor src);
// out[t] = x[t] / rms(x[t]) * weight; with a residual [T, dim]: residual += x first, and that is normalised.
void run_rmsnorm(Stream& stream, Tensor out, Tensor x, Tensor weight, float eps, Tensor residual = {});
// out[t] = (x[t] - mean) / deviation * weight + bias
void run_layernorm(Stream& stream, Tensor out, Tensor x, Tensor weight, Tensor bias, float eps);
// x[t] += bias
void run_add_bias(Stream& stream, Tensor x, Tensor bias);
// x[t] = gelu(x[t] + bias); bias may be empty.
void run_gelu(Stream& stream, Tensor x, Tensor bias);

}  // namespace llama4rt::cuda
