// Gram: what the inputs x of a linear look like over the calibration text, as the sums H = sum over rows of x^T x. An
// error e in a row of the weight changes the outputs by the sum of squares e H e^T: H is half the Hessian of that loss.
#pragma once

#include <cstdint>
#include <vector>

#include "base/thread_pool.h"
#include "cpu/kernels.h"

namespace llama4rt::calibrate {

// A dense fp32 matrix of its own memory, row-major.
struct Square {
  int64_t k = 0;
  int64_t stride = 0;  // k rounded up to whole vectors; zeros past k
  std::vector<float> data;

  explicit Square(int64_t size);
  float* row(int64_t i) { return data.data() + i * stride; }
  const float* row(int64_t i) const { return data.data() + i * stride; }
};

// h[i, j] += sum over t of a[t, i] * b[t, j], rows taken in blocks of fixed size, so that the bits depend on neither
// the threads nor the instruction set.   a, b: [count, k], rows a_stride and b_stride apart
// symmetric: a is b; only half is computed, and mirrored.
void add_gram(Square& h, const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t count,
              bool symmetric, const cpu::Kernels& kernels, ThreadPool& pool);

}  // namespace llama4rt::calibrate
