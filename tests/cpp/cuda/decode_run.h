// One small product of linear_decode with a known result, for the tests that break the kernel.
#pragma once

#include <bit>

#include "cuda/kernels/general_weights.h"
#include "cuda/kernels/linear_decode.h"
#include "cuda/launch.h"
#include "cuda/products.h"
#include "cuda/teeth.h"
#include "ops/made_routing.h"

namespace llama4rt::test {

// x[t] += shared[t] + sum of two routed picks. 40 rows (the last 8 of a row block are padding, the last warp
// has none), two splits of K, the second of them ends inside a tile; zero points; experts 0, 2 and 3 of 6
// have tokens, one of them more than a work item takes. Two runs.
class DecodeRun {
 public:
  explicit DecodeRun(const cases::WeightSpec& spec)
      : shared_(rng_, spec, 1, kN, kK),
        experts_(rng_, spec, kE, kN, kK),
        device_shared_(stream_, shared_.view()),
        device_experts_(stream_, experts_.view()),
        x_(uneven(rng_, kT, kN)),
        a_(uneven(rng_, kT * kTopK, kK)),
        shared_a_(uneven(rng_, kT, kK)),
        routing_(ids(), std::vector<float>(kT * kTopK, 1.0f), kE, kTopK),
        expected_(x_) {
    for (int64_t t = 0; t < kT; ++t)
      for (int64_t n = 0; n < kN; ++n) {
        double sum = product(shared_a_.row(t), shared_.view(), n);
        for (int64_t s = t * kTopK; s < (t + 1) * kTopK; ++s)
          sum += product(a_.row(s), expert_view(experts_.view(), routing_.expert(s)), n);
        expected_.row(t)[n] += float(2 * sum);
      }
  }
  // `splits` blocks share K.
  template <class Config, class Args, class Finish>
  bool is_right(void (*kernel)(Args, int), Finish add, int splits) {
    Matrix out = x_;
    DeviceMatrix dout(stream_, out), da(stream_, a_), ds(stream_, shared_a_);
    const Routing r = routing_.view();
    const cuda::DeviceBuffer partials(size_t(2 * kT * (kTopK + 1) * 64 * 4)), tickets(4),
        sorted(size_t(kT * kTopK * 4)), offsets(size_t(kE + 1) * 4);
    stream_.fill(tickets.data(), 0, 4);
    stream_.copy_to_device(sorted.data(), r.sorted_picks.data, sorted.size());
    stream_.copy_to_device(offsets.data(), r.offsets.data, offsets.size());
    stream_.synchronize();
    as_if_a_kernel_wrote(sorted);
    as_if_a_kernel_wrote(offsets);
    const auto matrices = [](const Weight& w) {
      return std::bit_cast<decltype(Args::dense)>(cuda::decode_matrices(w));  // a copy has a type of its own
    };
    const Args args{.dense = matrices(device_shared_.view()),
                    .dense_x = ds.view().ptr<const float>(),
                    .out = dout.view().ptr<float>(),
                    .tokens = kT,
                    .routed = matrices(device_experts_.view()),
                    .routed_x = da.view().ptr<const float>(),
                    .sorted_picks = sorted.as<int32_t>(),
                    .offsets = offsets.as<int32_t>(),
                    .picks = kT * kTopK,
                    .experts = kE,
                    .top_k = kTopK,
                    .dense_x_stride = ds.view().stride0,
                    .routed_x_stride = da.view().stride0,
                    .out_stride = dout.view().stride0,
                    .partials = partials.as<float>(),
                    .tickets = tickets.as<uint32_t>(),
                    .n = kN,
                    .k = kK,
                    .general = std::bit_cast<decltype(Args::general)>(cuda::general_args(shared_.view())),
                    .finish = add};
    for (int i = 0; i < 2; ++i)
      cuda::launch("linear_decode", kernel,
                   {.grid_y = splits,
                    .threads = Config::kThreads,
                    .dynamic_shared = size_t(Config::shared_bytes(8, kE))},
                   stream_, args, 8);
    dout.fetch(stream_);
    return all_close(out, expected_, 1e-2);
  }

 private:
  static constexpr int kT = 10, kN = 40, kK = 1571, kE = 6, kTopK = 2;

  static std::vector<int32_t> ids() {
    std::vector<int32_t> all;
    for (int t = 0; t < kT; ++t) all.insert(all.end(), {t == 4 ? 0 : 3, 2 * (t % 2)});
    return all;
  }
  static double product(const float* x, const Weight& w, int64_t n) {
    double sum = 0;
    for (int64_t k = 0; k < w.k; ++k) sum += double(to_float(to_bf16(x[k]))) * double(weight_value(w, n, k));
    return sum;
  }

  Rng rng_{22};
  cuda::Stream stream_;
  RandomWeight shared_, experts_;
  DeviceWeight device_shared_, device_experts_;
  Matrix x_, a_, shared_a_;
  MadeRouting routing_;
  Matrix expected_;
};

template <class Config, class Kernel>
bool is_right(DecodeRun& run, Kernel kernel) {
  for (const int splits : {2, 1})
    if (!run.is_right<Config>(kernel, Finish::kAdd, splits)) return false;
  return true;
}

}  // namespace llama4rt::test
