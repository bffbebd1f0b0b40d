// What the tests of matmuls share.
//
// The kernels round activations to bf16 and are exact from there (integers or bf16 times bf16, fp32 sums), so
// the reference gets rounded activations and only the order of additions differs.
#pragma once

#include <algorithm>
#include <cmath>

#include "cuda/simt_test.h"
#include "ops/made_routing.h"
#include "weights/layout.h"

namespace llama4rt::test {

inline Matrix rounded_to_bf16(const Matrix& x) {
  Matrix out = x;
  for (int64_t t = 0; t < x.rows(); ++t)
    for (int64_t k = 0; k < x.columns(); ++k) out.row(t)[k] = to_float(to_bf16(x.row(t)[k]));
  return out;
}

// Activations of very uneven size, so that a value taken from the wrong place shows.
inline Matrix uneven_activations(Rng& rng, int64_t rows, int64_t columns) {
  Matrix m = random_activations(rng, rows, columns);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) m.row(i)[j] *= float(1 << rng.below(7)) / 4.0f;
  return m;
}

// What an element of about `size` may be off after sums of k products.
inline double sum_tolerance(int64_t k) { return 0x1p-24 * (16.0 + 8.0 * std::sqrt(double(k))); }

// What offsets may be off: both factors of a group's product are cut to 16 bits (cuda/device/group_sums.cuh).
inline double offset_error(const float* x, const Weight& w, int64_t n) {
  double error = 0;
  for (int64_t group = 0; group < w.num_groups() && w.offsets; ++group) {
    double sum = 0;
    for (int64_t k = group * w.group_size; k < std::min(w.k, (group + 1) * w.group_size); ++k)
      sum += double(x[k]);
    error += 0x1p-15 * std::abs(sum * double(group_offset(w, n, group)));
  }
  return error;
}

// sqrt(sum x^2 * sum w^2 / K): the size an element has when nothing cancels, |a| + |offset| for w = a + offset. What
// offsets may be off is in it as the size that sum_tolerance allows as much for.
inline double magnitude(const float* x, const Weight& w, int64_t n) {
  double xs = 0, ws = 0;
  for (int64_t k = 0; k < w.k; ++k) {
    double v = weight_value(w, n, k);
    if (w.offsets) {
      const double offset = group_offset(w, n, k / w.group_size);
      v = std::abs(v - offset) + std::abs(offset);
    }
    xs += double(x[k]) * double(x[k]);
    ws += v * v;
  }
  return std::sqrt(xs * ws / double(w.k)) + offset_error(x, w, n) / sum_tolerance(w.k);
}

// A Routing in device memory.
class DeviceRouting {
 public:
  DeviceRouting(cuda::Stream& stream, MadeRouting& made) : view_(made.view()) {
    Tensor* tensors[] = {&view_.expert_ids, &view_.scores, &view_.sorted_picks, &view_.offsets};
    for (int i = 0; i < 4; ++i) {
      const size_t bytes = size_t(tensors[i]->numel()) * 4;
      buffers_[i] = cuda::DeviceBuffer(bytes);
      stream.copy_to_device(buffers_[i].data(), tensors[i]->data, bytes);
      tensors[i]->data = buffers_[i].data();
    }
    stream.synchronize();
    for (const cuda::DeviceBuffer& buffer : buffers_) as_if_a_kernel_wrote(buffer);
  }
  const Routing& view() const { return view_; }

 private:
  Routing view_;
  cuda::DeviceBuffer buffers_[4];
};

// General weights that differ in what kernels do otherwise: as Q4_K, Q2_K and Q5_K are (two boxes of further columns,
// with factors), fewer groups than a step has columns, and kinds without offsets.
inline constexpr cases::WeightSpec kGeneralSpecs[] = {
    {.kind = WeightKind::kInt4, .group_size = 32, .scales = DType::kI8, .offsets = true},
    {.kind = WeightKind::kInt4, .group_size = 16, .scales = DType::kI8, .offsets = true},
    {.kind = WeightKind::kInt8, .group_size = 32, .scales = DType::kI8, .offsets = true},
    {.kind = WeightKind::kInt4, .group_size = 128, .zeros = true, .scales = DType::kI8, .offsets = true},
    {.kind = WeightKind::kInt8, .group_size = 16, .scales = DType::kF32, .offsets = true},
    {.kind = WeightKind::kTable4, .group_size = 16, .scales = DType::kF8E4M3, .table = cases::kE2M1Table},
    {.kind = WeightKind::kFp8, .group_size = 128, .scales = DType::kF16},
};

// As a GPU takes it: factors of F32, one of 256 inputs.
inline cases::WeightSpec on_gpu(cases::WeightSpec spec) {
  spec.factors = DType::kF32;
  spec.row_factors = false;
  return spec;
}
// Every kind of weight in turn.
inline cases::WeightSpec spec_of_turn(size_t turn) {
  return on_gpu(cases::kWeightSpecs[turn % std::size(cases::kWeightSpecs)]);
}

}  // namespace llama4rt::test
