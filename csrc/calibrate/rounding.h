// Rounding: the rows of a weight become codes whose errors make each other good (feedback.h).
#pragma once

#include <cstdint>
#include <vector>

#include "calibrate/feedback.h"
#include "calibrate/grid.h"

namespace llama4rt::calibrate {

// Codes of some rows, row-major.
struct RoundedRows {
  std::vector<uint8_t> codes;   // [rows, k]
  std::vector<float> scales;    // [rows, groups], numbers of the spec's type
  std::vector<float> offsets;   // the same, where there are offsets
  std::vector<double> errors;   // [rows]  e H e^T
  std::vector<double> plain;    // [rows]  the same of the nearest codes of the plain search
};

struct RoundOptions {
  bool feedback = true;   // else: nearest codes
};

RoundedRows round_rows(const float* w, int64_t w_stride, int64_t rows, const Feedback& feedback, const float* importance,
                       const GridSpec& spec, const RoundOptions& options, const cpu::Kernels& kernels, cpu::Team& team);

}  // namespace llama4rt::calibrate
