// How one group of weights becomes codes and a scale. Pure arithmetic on floats: no layout, no files,
// no threads. weights/weight.h defines codes and scales; docs/quantization.md explains the search.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "weights/weight_formats.h"

namespace llama4rt {

// Groups are handed over with their tail zero-filled up to a multiple of this many values.
inline constexpr int64_t kGroupPadding = 8;

struct GroupError {
  double squared = 0;  // sum of (w - value)^2
  float max_abs = 0;
};

// Picks the scale with the least squared error among fixed candidates (absmax/8 and absmax/7.5 of either sign
// are among them, so the result is never worse than those) and writes codes q in 0..15, value = (q - 8) *
// scale. The scale is rounded to scale_dtype (bf16 or f32) before codes are computed; it may be negative.
//   w: [round_up(count, 8)], finite, zeros past count.  codes: [round_up(count, 8)].
float quantize_int4_group(const float* w, int64_t count, DType scale_dtype, uint8_t* codes,
                          GroupError& error);

// scale = absmax / 127, codes q in 0..255, value = (q - 128) * scale.  Shapes as above.
float quantize_int8_group(const float* w, int64_t count, DType scale_dtype, uint8_t* codes,
                          GroupError& error);

// scale = absmax / 448, codes e4m3 of w / scale: to nearest even, at most 448, never NaN; value = e4m3(code) * scale.
float quantize_fp8_group(const float* w, int64_t count, DType scale_dtype, uint8_t* codes, GroupError& error);

// The search of a scaled kind that is made from values. Throws kInternal for others.
using QuantizeGroup = float (*)(const float* w, int64_t count, DType scale_dtype, uint8_t* codes,
                                GroupError& error);
QuantizeGroup quantize_group(WeightKind kind);

}  // namespace llama4rt
