// Every planted bug of planted_bugs/linear_int4_decode.cmake must be caught on one small case.
#include "cuda/kernels/linear_int4_decode.cuh"
#include "cuda/launch.h"
#include "cuda/teeth.h"
#include "planted_bugs/linear_int4_decode_bugs.h"

namespace llama4rt::test {
namespace {

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

TEST(every_bug_is_caught) {
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
