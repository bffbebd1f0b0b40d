// Every barrier, wait and fence of rmsnorm removed, one at a time (teeth.h).
#include "cuda/kernels/rows.h"
#include "cuda/teeth.h"

namespace llama4rt::test {

TEST(every_break_is_caught) {
  Rng rng(11);
  cuda::Stream stream;
  const int64_t dim = 700;
  const Matrix x = uneven(rng, 2, dim);
  std::vector<float> ones(size_t(dim), 1.0f);
  Matrix expected(2, dim);
  for (int64_t t = 0; t < 2; ++t) {
    double sum = 0;
    for (int64_t i = 0; i < dim; ++i) sum += double(x.row(t)[i]) * double(x.row(t)[i]);
    for (int64_t i = 0; i < dim; ++i)
      expected.row(t)[i] = float(double(x.row(t)[i]) / std::sqrt(sum / double(dim) + 1e-5));
  }
  check_teeth(
      "rmsnorm",
      [&] {
        Matrix in = x, out(2, dim);
        DeviceMatrix dx(stream, in), dout(stream, out);
        cuda::DeviceBuffer weight(size_t(dim) * 4);
        stream.copy_to_device(weight.data(), ones.data(), ones.size() * 4);
        cuda::run_rmsnorm(stream, dout.view(), dx.view(), Tensor(weight.data(), DType::kF32, {dim}), 1e-5f);
        dout.fetch(stream);
        return all_close(out, expected, 1e-5);
      },
      6);
}

}  // namespace llama4rt::test
