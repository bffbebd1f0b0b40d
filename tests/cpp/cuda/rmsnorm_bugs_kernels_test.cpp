// Every planted bug of planted_bugs/rmsnorm.cmake must be caught on one small case.
#include "cuda/kernels/rmsnorm.cuh"
#include "cuda/launch.h"
#include "cuda/teeth.h"
#include "planted_bugs/rmsnorm_bugs.h"

namespace llama4rt::test {
namespace {

class RmsNormRun {
 public:
  RmsNormRun() : x_(uneven(rng_, 3, 301)), weight_(uneven(rng_, 1, 301)), expected_(3, 301) {
    for (int64_t t = 0; t < 3; ++t) {
      double sum = 0;
      for (int64_t i = 0; i < 301; ++i) sum += double(x_.row(t)[i]) * double(x_.row(t)[i]);
      for (int64_t i = 0; i < 301; ++i)
        expected_.row(t)[i] =
            float(double(x_.row(t)[i]) / std::sqrt(sum / 301 + kEps) * double(weight_.row(0)[i]));
    }
  }
  template <class Args>
  bool is_right(void (*kernel)(Args)) {
    Matrix out(3, 301);
    DeviceMatrix dx(stream_, x_), dw(stream_, weight_), dout(stream_, out);
    const Args args{.out = dout.view().ptr<float>(),
                    .x = dx.view().ptr<const float>(),
                    .weight = dw.view().ptr<const float>(),
                    .residual = nullptr,
                    .out_stride = dout.view().stride0,
                    .x_stride = dx.view().stride0,
                    .residual_stride = 0,
                    .dim = 301,
                    .eps = float(kEps)};
    cuda::launch("rmsnorm", kernel, {.grid_x = 3, .threads = 64}, stream_, args);
    dout.fetch(stream_);
    return all_close(out, expected_, 1e-5);
  }

 private:
  static constexpr double kEps = 30.0;
  Rng rng_{21};
  cuda::Stream stream_;
  Matrix x_, weight_, expected_;
};

}  // namespace

TEST(every_bug_is_caught) {
  RmsNormRun run;
  CHECK_EQ(caught([&] { return run.is_right(cuda::rmsnorm_kernel<64, false>); }), "");  // without any bug
#define BUG(name) expect_caught(#name, [&] { return run.is_right(bugs::name::rmsnorm_kernel<64, false>); });
  LLAMA4RT_BUGS_OF_RMSNORM(BUG)
#undef BUG
}

}  // namespace llama4rt::test
