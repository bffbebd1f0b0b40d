// Every barrier and shuffle of layernorm removed, one at a time (teeth.h). The other row kernels have none.
#include "cuda/device_rows.h"
#include "cuda/kernels/rows.h"
#include "cuda/teeth.h"

namespace llama4rt::test {

TEST(every_break_is_caught) {
  Rng rng(61);
  cuda::Stream stream;
  const int64_t dim = 700;
  const Matrix x = uneven(rng, 2, dim);
  const DeviceVector<float> ones(stream, std::vector<float>(size_t(dim), 1.0f)),
      zeros(stream, std::vector<float>(size_t(dim), 0.0f));
  Matrix expected(2, dim);
  for (int64_t t = 0; t < 2; ++t) {
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < dim; ++i) mean += double(x.row(t)[i]) / double(dim);
    for (int64_t i = 0; i < dim; ++i) variance += std::pow(double(x.row(t)[i]) - mean, 2) / double(dim);
    for (int64_t i = 0; i < dim; ++i)
      expected.row(t)[i] = float((double(x.row(t)[i]) - mean) / std::sqrt(variance + 1e-5));
  }
  check_teeth(
      "layernorm",
      [&] {
        DeviceRows dx(stream, x, true);
        cuda::run_layernorm(stream, dx.view(), dx.view(), ones.view(DType::kF32), zeros.view(DType::kF32),
                            1e-5f);
        return all_close(dx.fetch(stream), expected, 1e-3);
      },
      7);
}

}  // namespace llama4rt::test
