// The arguments of linear_decode.cuh, the linear for few tokens: of a single matrix, of a stack of experts,
// or of both in one launch.
#pragma once

#include <cstdint>

#include "cuda/device/general_args.cuh"
#include "cuda/kernels/linear.h"

namespace llama4rt::cuda {

// One matrix [N, K], or a stack of E of them, in kCudaTile.
struct DecodeMatrices {
  const unsigned char* tiles = nullptr;   // [E][ceil(N/16)][ceil(K/columns)][512] bytes
  const unsigned char* scales = nullptr;  // [E][ceil(N/16)][groups][16] of bf16 or fp32, or null
  const unsigned char* zeros = nullptr;   // the same of bytes, or null
  // Of general weights: offsets as scales, factors fp32 [E][ceil(N/16)][ceil(K/256)][16], or null.
  const unsigned char* offsets = nullptr;
  const unsigned char* factors = nullptr;
  const unsigned char* offset_factors = nullptr;
};

struct DecodeArgs {
  // The dense part: every token goes through one matrix. tokens = 0: there is none.
  DecodeMatrices dense = {};
  const float* dense_x = nullptr;  // [T, K]
  float* out = nullptr;            // [T, N], with kSwiGlu [T, F]; routed sums are added here too (kAdd)
  int tokens = 0;                  // T of the dense part

  // The routed part: every pick goes through its expert. picks = 0: there is none.
  DecodeMatrices routed = {};
  const float* routed_x = nullptr;        // row s / picks_per_row for pick s
  float* routed_out = nullptr;            // [S, F], with kSwiGlu
  const float* scores = nullptr;          // [S], with kSwiGlu
  const int32_t* sorted_picks = nullptr;  // [S] by expert
  const int32_t* offsets = nullptr;       // [E + 1] into sorted_picks
  int picks = 0;                          // S = T * top_k
  int experts = 0;                        // E
  int picks_per_row = 1;
  int top_k = 1;

  int64_t dense_x_stride = 0, routed_x_stride = 0, out_stride = 0, routed_out_stride = 0;
  float* partials = nullptr;    // [row groups][grid y][tokens + picks][64]
  uint32_t* tickets = nullptr;  // [row groups], zero between runs
  int n = 0;                    // rows of one matrix
  int k = 0;
  int num_f = 0;  // F, with kSwiGlu
  bool fp32_scales = false;
  GeneralArgs general = {};
  Finish finish = Finish::kStore;
};

}  // namespace llama4rt::cuda
