// rmsnorm on the emulated GPU.
#include "cuda/device_rows.h"
#include "cuda/kernels/rows.h"

namespace llama4rt::test {
namespace {

// Worst |out - expected| over |expected|, in units of 2^-24.
double worst_error(const Matrix& out, const Matrix& x, const std::vector<float>& weight, float eps) {
  double worst = 0;
  for (int64_t t = 0; t < x.rows(); ++t) {
    double sum = 0;
    for (int64_t i = 0; i < x.columns(); ++i) sum += double(x.row(t)[i]) * double(x.row(t)[i]);
    const double scale = 1.0 / std::sqrt(sum / double(x.columns()) + double(eps));
    for (int64_t i = 0; i < x.columns(); ++i) {
      const double want = double(x.row(t)[i]) * scale * double(weight[size_t(i)]);
      const double error = std::abs(double(out.row(t)[i]) - want);
      const double relative = error <= 1e-37 ? 0.0 : error / std::abs(want) * 0x1p24;
      if (!(relative <= worst)) worst = relative;
    }
  }
  return worst;
}

}  // namespace

TEST(conforms) {
  Rng rng(1);
  cuda::Stream stream;
  for (const cases::RowsCase& c : cases::kRowsCases) {
    const Matrix x = random_activations(rng, c.tokens, c.dim),
                 residual = random_activations(rng, c.tokens, c.dim);
    Matrix sum = x, weight = random_activations(rng, 1, c.dim);
    for (int64_t t = 0; t < c.tokens; ++t)
      for (int64_t i = 0; i < c.dim; ++i) sum.row(t)[i] += residual.row(t)[i];
    const std::vector<float> w(weight.row(0), weight.row(0) + c.dim);
    const DeviceVector<float> dw(stream, w);
    for (const bool with_residual : {false, true}) {
      Matrix first(0, 0);
      for (const auto& o : schedules())
        for (const bool aligned : {true, false}) {
          if (c.tokens * c.dim > 4000 && &o != &schedules().front()) continue;  // time
          SCOPE(describe(o), ", ", c.tokens, " tokens, dim ", c.dim, with_residual ? ", residual" : "",
                aligned ? ", aligned" : "");
          const WithOptions with(o);
          DeviceRows dx(stream, x, aligned), dr(stream, residual, aligned),
              out(stream, Matrix(c.tokens, c.dim), aligned);
          cuda::run_rmsnorm(stream, out.view(), dx.view(), dw.view(DType::kF32), 1e-5f,
                            with_residual ? dr.view() : Tensor());
          const Matrix found = out.fetch(stream);
          if (with_residual) CHECK(dr.fetch(stream) == sum);
          CHECK_CLOSE(worst_error(found, with_residual ? sum : x, w, 1e-5f), 0.0, 16.0);
          if (first.rows() == 0) first = found;
          CHECK(found == first);
        }
      // A row alone, in place, has the bits it has among others.
      DeviceRows alone(stream, (with_residual ? sum : x).part(c.tokens - 1, 1), true);
      cuda::run_rmsnorm(stream, alone.view(), alone.view(), dw.view(DType::kF32), 1e-5f);
      CHECK(alone.fetch(stream) == first.part(c.tokens - 1, 1));
    }
  }
}

}  // namespace llama4rt::test
