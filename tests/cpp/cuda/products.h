// What the tests of matmuls share.
//
// The kernels round activations to bf16 and are exact from there (integers or bf16 times bf16, fp32 sums), so
// the reference gets rounded activations and only the order of additions differs.
#pragma once

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

// sqrt(sum x^2 * sum w^2 / K): the size an element has when nothing cancels.
inline double magnitude(const float* x, const Weight& w, int64_t n) {
  double xs = 0, ws = 0;
  for (int64_t k = 0; k < w.k; ++k) {
    const double v = weight_value(w, n, k);
    xs += double(x[k]) * double(x[k]);
    ws += v * v;
  }
  return std::sqrt(xs * ws / double(w.k));
}

// What an element of about `size` may be off after sums of k products.
inline double sum_tolerance(int64_t k) { return 0x1p-24 * (16.0 + 8.0 * std::sqrt(double(k))); }

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

// Every kind of weight that has a kernel in turn.
inline const cases::WeightSpec& spec_of_turn(size_t turn) {
  return cases::gpu_weight_specs()[turn % cases::gpu_weight_specs().size()];
}

}  // namespace llama4rt::test
