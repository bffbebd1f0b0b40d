// The arguments of the linears with many rows of x, of one matrix or of a stack of experts (linear_medium,
// linear_prefill). x has been rounded to bf16 before (round_rows).
#pragma once

#include <cstdint>

#include "cuda/device/general_args.cuh"
#include "cuda/kernels/linear.h"

namespace llama4rt::cuda {

struct RowsArgs {
  float* out = nullptr;  // [rows, N], with kSwiGlu [rows, F]; out_stride between rows
  // bf16 [R, x_stride], a multiple of 64: each split's columns, zeros from K to a multiple of 64, and with offsets its
  // further columns behind them (device/group_sums.cuh)
  const uint16_t* x = nullptr;
  const unsigned char* weights = nullptr;  // kCudaTile, matrix_bytes per expert
  const unsigned char* scales = nullptr;   // [E][ceil(N/16)][groups][16] of bf16 or fp32, or null
  const uint8_t* zeros = nullptr;          // the same of bytes, or null
  // Of general weights: offsets as scales, factors fp32 [E][ceil(N/16)][ceil(K/256)][16], or null.
  const unsigned char* weight_offsets = nullptr;
  const float* factors = nullptr;
  const float* offset_factors = nullptr;
  const int32_t* offsets = nullptr;  // [E + 1] rows of x of each expert; null: one matrix for all rows
  const int32_t* picks = nullptr;    // [R] row of `out` (and of scores) for each row of x; null: the same
  const float* scores = nullptr;     // [rows] with kSwiGlu, or null: 1
  float* partials = nullptr;         // linear_medium: sums of splits, when grid y is their number
  uint32_t* tickets = nullptr;       // linear_medium: [row tiles of x][row tiles of w], zero between runs
  int64_t out_stride = 0;
  int64_t matrix_bytes = 0;
  int64_t matrix_scales = 0;   // elements per expert
  int64_t matrix_factors = 0;  // the same
  int x_stride = 0;
  int num_rows = 0;  // R
  int num_experts = 1;
  int n = 0;
  int k = 0;
  int num_f = 0;  // F, with kSwiGlu
  bool fp32_scales = false;
  GeneralArgs general = {};
  Finish finish = Finish::kStore;
};

}  // namespace llama4rt::cuda
