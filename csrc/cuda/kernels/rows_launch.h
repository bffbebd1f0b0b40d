// Shared by the launchers of linear_medium and linear_prefill.
#pragma once

#include <algorithm>

#include "base/checked_math.h"
#include "cuda/device/rows_args.cuh"
#include "cuda/device/weight_tiles.cuh"
#include "cuda/kernels/linear_rows.h"
#include "cuda/kernels/with_weights.h"
#include "weights/layout.h"

namespace llama4rt::cuda {

inline RowsArgs rows_args(const RowsProduct& p, const Weight& w) {
  return {.out = p.out.ptr<float>(),
          .x = static_cast<const uint16_t*>(p.x),
          .weights = static_cast<const unsigned char*>(w.data),
          .scales = static_cast<const unsigned char*>(w.scales),
          .zeros = w.zeros,
          .weight_offsets = static_cast<const unsigned char*>(w.offsets),
          .factors = static_cast<const float*>(w.factors),
          .offset_factors = static_cast<const float*>(w.offset_factors),
          .offsets = p.offsets,
          .picks = p.picks,
          .scores = p.scores,
          .out_stride = p.out.stride0,
          .matrix_bytes = cuda_tile::matrix_bytes(w.kind, w.n, w.k),
          .matrix_scales = w.quantized() ? cpu16::matrix_scales(w.n, w.k, w.group_size) : 0,
          .matrix_factors = cpu16::matrix_scales(w.n, w.k, kFactorInputs),
          .x_stride = int(rounded_stride(w)),
          .num_rows = int(p.rows),
          .num_experts = int(w.num_experts),
          .n = int(w.n),
          .k = int(w.k),
          .num_f = int(p.out.size(1)),
          .fp32_scales = w.scale_dtype == DType::kF32,
          .general = general_args(w),
          .finish = p.finish};
}

}  // namespace llama4rt::cuda
