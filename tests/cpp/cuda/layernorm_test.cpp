// layernorm on the emulated GPU.
#include "cuda/device_rows.h"
#include "cuda/kernels/rows.h"

namespace llama4rt::test {
namespace {

constexpr float kEps = 1e-5f;

// |found - exact| in units of 2^-24 of what an element has when nothing cancels.
double worst_error(const Matrix& found, const Matrix& x, const Matrix& weight, const Matrix& bias) {
  double worst = 0;
  for (int64_t t = 0; t < x.rows(); ++t) {
    const auto dim = double(x.columns());
    double sum = 0, variance = 0, square = 0;
    for (int64_t i = 0; i < x.columns(); ++i) sum += double(x.row(t)[i]);
    for (int64_t i = 0; i < x.columns(); ++i) {
      const double value = x.row(t)[i];
      variance += (value - sum / dim) * (value - sum / dim) / dim;
      square += value * value / dim;
    }
    const double scale = 1.0 / std::sqrt(variance + double(kEps));
    for (int64_t i = 0; i < x.columns(); ++i) {
      const double value = x.row(t)[i], by = scale * double(weight.row(0)[i]), plus = bias.row(0)[i];
      const double size = (std::abs(value) + std::sqrt(square)) * std::abs(by) + std::abs(plus);
      const double error = std::abs(double(found.row(t)[i]) - ((value - sum / dim) * by + plus));
      worst = std::isfinite(error) ? std::max(worst, error / size * 0x1p24) : 1e9;
    }
  }
  return worst;
}

}  // namespace

TEST(conforms) {
  Rng rng(41);
  cuda::Stream stream;
  for (const cases::RowsCase& c : cases::kRowsCases) {
    Matrix x = random_activations(rng, c.tokens, c.dim);
    const Matrix weight = random_activations(rng, 1, c.dim), bias = random_activations(rng, 1, c.dim);
    // A mean of 1000 beside deviations of 1: mean(x^2) - mean(x)^2 would lose the variance.
    for (int64_t t = 1; t < c.tokens; t += 2)
      for (int64_t i = 0; i < c.dim; ++i) x.row(t)[i] += 1000.0f;
    const DeviceVector<float> dw = row_on_device(stream, weight), db = row_on_device(stream, bias);
    Matrix first(0, 0);
    for (const auto& o : schedules())
      for (const bool aligned : {true, false}) {
        if (c.tokens * c.dim > 4000 && &o != &schedules().front()) continue;  // time
        SCOPE(describe(o), ", ", c.tokens, " tokens, dim ", c.dim, aligned ? ", aligned" : "");
        const WithOptions with(o);
        DeviceRows in(stream, x, aligned), out(stream, Matrix(c.tokens, c.dim), aligned);
        cuda::run_layernorm(stream, out.view(), in.view(), dw.view(DType::kF32), db.view(DType::kF32), kEps);
        cuda::run_layernorm(stream, in.view(), in.view(), dw.view(DType::kF32), db.view(DType::kF32), kEps);
        const Matrix found = out.fetch(stream);
        CHECK_CLOSE(worst_error(found, x, weight, bias), 0.0, 16.0);
        CHECK(in.fetch(stream) == found);  // in place
        if (first.rows() == 0) first = found;
        CHECK(found == first);
      }
    // A row alone has the bits it has among others.
    DeviceRows alone(stream, x.part(c.tokens - 1, 1), true);
    cuda::run_layernorm(stream, alone.view(), alone.view(), dw.view(DType::kF32), db.view(DType::kF32), kEps);
    CHECK(alone.fetch(stream) == first.part(c.tokens - 1, 1));
  }
}

}  // namespace llama4rt::test
