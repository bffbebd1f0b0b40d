// Every planted bug (planted_bugs.cmake) must be caught by the checker or by a wrong result on one small
// case.
#include <cmath>

#include "cuda/kernels/linear_int4_decode.cuh"
#include "cuda/kernels/rmsnorm.cuh"
#include "cuda/launch.h"
#include "cuda/simt_test.h"
#include "planted_bugs/linear_int4_decode_bugs.h"
#include "planted_bugs/rmsnorm_bugs.h"

namespace llama4rt::test {
namespace {

// Empty when nothing shows the bug.
std::string caught(const std::function<bool()>& is_right) {
  for (const simt::Options& o : schedules()) {
    const WithOptions with(o);
    try {
      if (!is_right()) return "wrong result";
    } catch (const Error& e) {
      const std::string report = e.what();
      return report.substr(0, report.find('\n'));
    }
  }
  return {};
}

void expect_caught(const char* name, const std::function<bool()>& is_right) {
  SCOPE("planted bug ", name);
  const std::string how = caught(is_right);
  CHECK(!how.empty());
  if (std::getenv("LLAMA4RT_TEST_VERBOSE")) std::printf("  %s: %s\n", name, how.c_str());
}

bool all_close(const Matrix& found, const Matrix& expected, double relative) {
  for (int64_t i = 0; i < found.rows(); ++i)
    for (int64_t j = 0; j < found.columns(); ++j) {
      const double want = expected.row(i)[j];
      if (!(std::abs(double(found.row(i)[j]) - want) <= relative * std::abs(want))) return false;
    }
  return found.intact();
}

// Magnitudes from 1 to 64: a value from the wrong place is seen.
Matrix uneven(Rng& rng, int64_t rows, int64_t columns) {
  Matrix m(rows, columns);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) m.row(i)[j] = rng.normal() * float(1 << rng.below(7));
  return m;
}

class RmsNormRun {
 public:
  RmsNormRun() : x_(uneven(rng_, 3, 300)), weight_(uneven(rng_, 1, 300)), expected_(3, 300) {
    for (int64_t t = 0; t < 3; ++t) {
      double sum = 0;
      for (int64_t i = 0; i < 300; ++i) sum += double(x_.row(t)[i]) * double(x_.row(t)[i]);
      for (int64_t i = 0; i < 300; ++i)
        expected_.row(t)[i] =
            float(double(x_.row(t)[i]) / std::sqrt(sum / 300 + kEps) * double(weight_.row(0)[i]));
    }
  }
  template <class Args>
  bool is_right(void (*kernel)(Args)) {
    Matrix out(3, 300);
    DeviceMatrix dx(stream_, x_), dw(stream_, weight_), dout(stream_, out);
    const Args args{.out = dout.view().ptr<float>(),
                    .x = dx.view().ptr<const float>(),
                    .weight = dw.view().ptr<const float>(),
                    .residual = nullptr,
                    .out_stride = dout.view().stride0,
                    .x_stride = dx.view().stride0,
                    .residual_stride = 0,
                    .dim = 300,
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

// 40 rows (the last 8 of a row block are padding, the last warp has none), two splits of K, the second of
// them ends inside a tile; 3 tokens, zero points, two runs.
class LinearRun {
 public:
  LinearRun()
      : weight_(rng_, {.kind = WeightKind::kInt4, .group_size = 32, .zeros = true}, 1, kN, kK),
        device_weight_(stream_, weight_.view()),
        x_(uneven(rng_, kT, kK)),
        expected_(kT, kN) {
    for (int64_t t = 0; t < kT; ++t)
      for (int64_t n = 0; n < kN; ++n) {
        double sum = 0;
        for (int64_t k = 0; k < kK; ++k)
          sum += double(to_float(to_bf16(x_.row(t)[k]))) * double(weight_value(weight_.view(), n, k));
        expected_.row(t)[n] = float(sum);
      }
  }
  template <class Config, class Args, class Finish>
  bool is_right(void (*kernel)(Args), Finish store) {
    Matrix out(kT, kN);
    DeviceMatrix dx(stream_, x_), dout(stream_, out);
    const cuda::DeviceBuffer partials(size_t(2 * Config::kTokens * Config::kRows * 4)), tickets(4);
    stream_.fill(tickets.data(), 0, 4);
    const Weight& w = device_weight_.view();
    const Args args{.out = dout.view().ptr<float>(),
                    .x = dx.view().ptr<const float>(),
                    .weights = static_cast<const unsigned char*>(w.data),
                    .scales = w.scales,
                    .zeros = w.zeros,
                    .partials = partials.as<float>(),
                    .tickets = tickets.as<uint32_t>(),
                    .out_stride = dout.view().stride0,
                    .x_stride = dx.view().stride0,
                    .tokens = kT,
                    .n = kN,
                    .k = kK,
                    .num_f = 0,
                    .finish = store};
    for (int i = 0; i < 2; ++i) {
      stream_.fill(dout.view().data, 0xff, size_t(dout.view().stride0 * (kT - 1) + kN) * 4);
      cuda::launch("linear_int4_decode", kernel,
                   {.grid_y = 2, .threads = Config::kThreads, .dynamic_shared = Config::kSharedBytes},
                   stream_, args);
    }
    dout.fetch(stream_);
    return all_close(out, expected_, 1e-2);
  }

 private:
  static constexpr int kT = 3, kN = 40, kK = 1571;
  Rng rng_{22};
  cuda::Stream stream_;
  RandomWeight weight_;
  DeviceWeight device_weight_;
  Matrix x_, expected_;
};

}  // namespace

TEST(rmsnorm) {
  RmsNormRun run;
  CHECK_EQ(caught([&] { return run.is_right(cuda::rmsnorm_kernel<64>); }), "");  // without any bug
#define BUG(name) expect_caught(#name, [&] { return run.is_right(bugs::name::rmsnorm_kernel<64>); });
  LLAMA4RT_BUGS_OF_RMSNORM(BUG)
#undef BUG
}

TEST(linear_int4_decode) {
  LinearRun run;
  using RealConfig = cuda::LinearInt4Config<32, cuda::ScaleBF16, true, 1>;
  CHECK_EQ(caught([&] {
             return run.is_right<RealConfig>(cuda::linear_int4_decode_kernel<RealConfig>,
                                             cuda::Finish::kStore);
           }),
           "");
#define BUG(name)                                                                                     \
  expect_caught(#name, [&] {                                                                          \
    using Config = bugs::name::LinearInt4Config<32, bugs::name::ScaleBF16, true, 1>;                  \
    return run.is_right<Config>(bugs::name::linear_int4_decode_kernel<Config>, cuda::Finish::kStore); \
  });
  LLAMA4RT_BUGS_OF_LINEAR_INT4_DECODE(BUG)
#undef BUG
}

}  // namespace llama4rt::test
