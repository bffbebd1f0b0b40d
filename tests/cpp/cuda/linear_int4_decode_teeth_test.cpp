// Every barrier, wait and fence of linear_int4_decode removed, one at a time (teeth.h).
#include "cuda/cuda_backend.h"
#include "cuda/teeth.h"

namespace llama4rt::test {

TEST(every_break_is_caught) {
  Rng rng(12);
  cuda::Stream stream;
  const int64_t n = 40, k = 1700;  // two splits, the second of them not full
  const RandomWeight weight(rng, {.kind = WeightKind::kInt4, .group_size = 64, .zeros = true}, 1, n, k);
  const DeviceWeight dw(stream, weight.view());
  Matrix x = uneven(rng, 2, k);
  Matrix expected(2, n);
  for (int64_t t = 0; t < 2; ++t)
    for (int64_t i = 0; i < n; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < k; ++j)
        sum += double(to_float(to_bf16(x.row(t)[j]))) * double(weight_value(weight.view(), i, j));
      expected.row(t)[i] = float(sum);
    }
  check_teeth(
      "linear_int4_decode",
      [&] {
        CudaBackend backend(0);  // new scratch, never written
        Matrix in = x, out(2, n);
        DeviceMatrix dx(stream, in), dout(stream, out);
        backend.linear(dout.view(), dx.view(), dw.view());
        backend.copy_to_host(nullptr, nullptr, 0);
        dout.fetch(stream);
        return all_close(out, expected, 1e-2);
      },
      6);
}

}  // namespace llama4rt::test
