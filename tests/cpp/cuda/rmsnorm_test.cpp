// rmsnorm on the emulated GPU.
#include "cuda/kernels/rows.h"
#include "cuda/simt_test.h"

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
  for (const auto& o : schedules())
    for (const bool with_residual : {false, true})
      for (const cases::RowsCase& c : cases::kRowsCases) {
        if (c.tokens * c.dim > 4000 && &o != &schedules().front()) continue;  // time
        SCOPE(describe(o), ", ", c.tokens, " tokens, dim ", c.dim, with_residual ? ", residual" : "");
        const WithOptions with(o);
        Matrix x = random_activations(rng, c.tokens, c.dim),
               residual = random_activations(rng, c.tokens, c.dim);
        std::vector<float> weight(size_t(c.dim));
        for (float& w : weight) w = rng.normal();
        Matrix out(c.tokens, c.dim);
        DeviceMatrix dx(stream, x), dr(stream, residual), dout(stream, out);
        cuda::DeviceBuffer dw(weight.size() * 4);
        stream.copy_to_device(dw.data(), weight.data(), weight.size() * 4);
        cuda::run_rmsnorm(stream, dout.view(), dx.view(), Tensor(dw.data(), DType::kF32, {c.dim}), 1e-5f,
                          with_residual ? dr.view() : Tensor());
        dout.fetch(stream);
        CHECK(out.intact());
        if (with_residual) {
          for (int64_t t = 0; t < c.tokens; ++t)
            for (int64_t i = 0; i < c.dim; ++i) x.row(t)[i] += residual.row(t)[i];
          dr.fetch(stream);
          CHECK(residual == x || c.dim == 0);
        }
        CHECK_CLOSE(worst_error(out, x, weight, 1e-5f), 0.0, 16.0);
      }
}

}  // namespace llama4rt::test
