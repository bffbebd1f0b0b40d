// Four floats of a row at a time: one access of 16 bytes where the rows are aligned (launch_rows.h decides),
// four of 4 bytes where not. Both give the same values to the same thread, so sums have the same bits.
#pragma once

#include "cuda/simt.h"

namespace llama4rt::cuda {

struct alignas(16) F32x4 {
  float v[4];
};

// row[i .. i + 4), zeros from dim on.   row: [dim]; i is a multiple of 4.
template <bool kAligned>
LLAMA4RT_DEVICE F32x4 load4(const float* row, int i, int dim) {
  if (kAligned && i + 4 <= dim) return *reinterpret_cast<const F32x4*>(row + i);
  F32x4 out;
  for (int j = 0; j < 4; ++j) out.v[j] = i + j < dim ? row[i + j] : 0.0f;
  return out;
}

// row[i .. i + 4) = value, nothing from dim on.
template <bool kAligned>
LLAMA4RT_DEVICE void store4(float* row, int i, int dim, const F32x4& value) {
  if (kAligned && i + 4 <= dim) {
    *reinterpret_cast<F32x4*>(row + i) = value;
    return;
  }
  for (int j = 0; j < 4; ++j)
    if (i + j < dim) row[i + j] = value.v[j];
}

}  // namespace llama4rt::cuda
