// Rounding: rows of a weight become codes whose errors make each other good (feedback.h).
#pragma once

#include <cstdint>
#include <vector>

#include "base/thread_pool.h"
#include "calibrate/feedback.h"
#include "calibrate/grid.h"
#include "weights/pack.h"

namespace llama4rt::calibrate {

// Codes of some rows, row-major, and what their errors e cost: e (H + damping) e^T.
struct RoundedRows {
  std::vector<uint8_t> codes;      // [rows, k]
  std::vector<float> scales;       // [rows, groups], numbers of the spec's type
  std::vector<float> offsets;      // the same, or empty
  std::vector<double> cost;        // [rows]
  std::vector<double> plain_cost;  // [rows] of plain codes, as a build without calibration makes them
  std::vector<PackError> errors;   // [rows] of the weights themselves
};

// The better, row by row, of codes that are rounded one after the other on grids for the weight's importance, and plain
// ones: so no row costs more than without calibration.
//   w: [rows, k], finite; feedback: of the inputs; importance: [k], >= 0
RoundedRows round_rows(const float* w, int64_t rows, const Feedback& feedback, const float* importance,
                       const GridSpec& spec, const cpu::Kernels& kernels, ThreadPool& pool);

// Plain codes: the nearest on the grids that count every weight alike. No costs.
RoundedRows round_plainly(const float* w, int64_t rows, int64_t k, const GridSpec& spec, ThreadPool& pool);

}  // namespace llama4rt::calibrate
