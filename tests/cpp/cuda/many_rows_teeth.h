// One small product of experts' rows with a known result, for the tests that break the kernels of many rows.
#pragma once

#include <cmath>

#include "cuda/kernels/linear_rows.h"
#include "cuda/teeth.h"
#include "weights/layout.h"

namespace llama4rt::test {

// Rows of x go to the experts that `of_expert` names, in order; row i's result is row rows - 1 - i of out.
class ExpertRows {
 public:
  ExpertRows(const cases::WeightSpec& spec, std::vector<int32_t> rows_of_expert, int64_t n, int64_t k,
             bool swiglu)
      : swiglu_(swiglu),
        columns_(n),
        plain_(rng_, spec, int64_t(rows_of_expert.size()), swiglu ? 1 : n, k),
        pairs_(rng_, spec, int64_t(rows_of_expert.size()), swiglu ? n : 1, k),
        weight_(stream_, swiglu ? pairs_.view() : plain_.view()) {
    std::vector<int32_t> offsets{0};
    for (const int32_t r : rows_of_expert) offsets.push_back(offsets.back() + r);
    rows_ = offsets.back();
    const Matrix x = uneven(rng_, rows_, k);
    std::vector<int32_t> picks;
    std::vector<float> scores;
    for (int64_t i = 0; i < rows_; ++i) {
      picks.push_back(int32_t(rows_ - 1 - i));
      scores.push_back(rng_.uniform(0.1f, 1.0f));
    }
    expected_ = std::make_unique<Matrix>(rows_, n);
    const Weight& all = swiglu ? pairs_.view() : plain_.view();
    for (size_t e = 0; e + 1 < offsets.size(); ++e) {
      const Weight w = expert_view(all, int64_t(e));
      for (int64_t i = offsets[e]; i < offsets[e + 1]; ++i) expect(w, x.row(i), picks[size_t(i)], scores);
    }
    Matrix in = x;
    DeviceMatrix dx(stream_, in);
    x_ = cuda::DeviceBuffer(size_t(rows_ * cuda::rounded_stride(weight_.view()) * 2));
    cuda::run_round_rows(stream_, x_.data(), dx.view(), weight_.view());
    put(offsets_, offsets);
    put(picks_, picks);
    put(scores_, scores);
  }

  // run(product, weight) starts the kernel; the result may not lie in out before.
  template <class Run>
  bool is_right(const Run& run) {
    Matrix out(rows_, columns_);
    DeviceMatrix dout(stream_, out);
    run(stream_,
        cuda::RowsProduct{.out = dout.view(),
                          .x = x_.data(),
                          .rows = rows_,
                          .finish = swiglu_ ? Finish::kSwiGlu : Finish::kStore,
                          .offsets = offsets_.as<const int32_t>(),
                          .picks = picks_.as<const int32_t>(),
                          .scores = scores_.as<const float>()},
        weight_.view());
    dout.fetch(stream_);
    return all_close(out, *expected_, 2e-2);
  }

 private:
  void expect(const Weight& w, const float* x, int64_t pick, const std::vector<float>& scores) {
    const auto product = [&](int64_t n) {
      double sum = 0;
      for (int64_t k = 0; k < w.k; ++k)
        sum += double(to_float(to_bf16(x[k]))) * double(weight_value(w, n, k));
      return sum;
    };
    for (int64_t n = 0; n < columns_; ++n) {
      double value;
      if (swiglu_) {
        const double c = double(scores[size_t(pick)]), g = c * product(cpu16::gate_row(n));
        value = g / (1 + std::exp(-g)) * c * product(cpu16::up_row(n));
      } else {
        value = product(n);
      }
      expected_->row(pick)[n] = float(value);
    }
  }
  template <class T>
  void put(cuda::DeviceBuffer& buffer, const std::vector<T>& values) {
    buffer = cuda::DeviceBuffer(values.size() * sizeof(T));
    stream_.copy_to_device(buffer.data(), values.data(), values.size() * sizeof(T));
    stream_.synchronize();
    as_if_a_kernel_wrote(buffer);
  }

  bool swiglu_;
  int64_t columns_, rows_ = 0;
  Rng rng_{23};
  cuda::Stream stream_;
  RandomWeight plain_;
  RandomGateUp pairs_;
  DeviceWeight weight_;
  std::unique_ptr<Matrix> expected_;
  cuda::DeviceBuffer x_, offsets_, picks_, scores_;
};

}  // namespace llama4rt::test
