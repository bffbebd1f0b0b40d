// Every planted bug of embed, copy_rows, bias and layernorm must be caught on one small case of each.
#include "cuda/device_rows.h"
#include "cuda/kernels/bias.cuh"
#include "cuda/kernels/copy_rows.cuh"
#include "cuda/kernels/embed.cuh"
#include "cuda/kernels/layernorm.cuh"
#include "cuda/launch.h"
#include "cuda/launch_rows.h"
#include "cuda/teeth.h"
#include "planted_bugs/bias_bugs.h"
#include "planted_bugs/copy_rows_bugs.h"
#include "planted_bugs/embed_bugs.h"
#include "planted_bugs/layernorm_bugs.h"

namespace llama4rt::test {
namespace {

constexpr int kThreads = 32;

// Rows of 301 columns in the middle of a row of more: not aligned, more than two pieces of four columns a
// thread.
class EmbedRun {
 public:
  // An aligned and an odd table: the kernel has a path for each.
  template <class Args>
  bool is_right(void (*aligned)(Args), void (*odd)(Args)) {
    return run(aligned, 264, true) && run(odd, 261, false) && run_far(odd);
  }

 private:
  static constexpr int64_t kVocabulary = 20;

  template <class Args>
  bool run(void (*kernel)(Args), int64_t width, bool is_aligned) {
    std::vector<uint16_t> table(size_t(kVocabulary * width));
    for (uint16_t& x : table) x = to_bf16(rng_.normal() * float(1 << rng_.below(7))).bits;
    const std::vector<int32_t> ids = {19, 0, 20, -1};
    const DeviceVector<uint16_t> dtable(stream_, table);
    const Matrix found = launched(kernel, static_cast<const uint16_t*>(dtable.data()), ids, width, is_aligned,
                                  int(kVocabulary));
    for (size_t t = 0; t < ids.size(); ++t)
      for (int64_t i = 0; i < width; ++i) {
        const float value = found.row(int64_t(t))[i];
        if (t < 2 ? value != to_float(bf16{table[size_t(ids[t] * width + i)]}) : !std::isnan(value))
          return false;
      }
    return true;
  }
  // A row that 32 bits cannot address.
  template <class Args>
  bool run_far(void (*kernel)(Args)) {
    const int64_t width = 5121, row = 999'999;
    const DeviceVector<uint16_t> only(stream_, std::vector<uint16_t>(size_t(width), uint16_t(0x3f80)));
    const auto first = reinterpret_cast<uintptr_t>(only.data()) - uintptr_t(row * width * 2);
    const Matrix found = launched(kernel, reinterpret_cast<const uint16_t*>(first), {int32_t(row)}, width,
                                  false, int(row) + 1);
    return std::all_of(found.row(0), found.row(0) + width, [](float x) { return x == 1.0f; });
  }
  template <class Args>
  Matrix launched(void (*kernel)(Args), const uint16_t* table, const std::vector<int32_t>& ids, int64_t width,
                  bool is_aligned, int vocabulary) {
    const DeviceVector<int32_t> dids(stream_, ids);
    DeviceRows out(stream_, Matrix(int64_t(ids.size()), width), is_aligned);
    const Args args{.out = out.view().template ptr<float>(),
                    .table = table,
                    .ids = static_cast<const int32_t*>(dids.data()),
                    .out_stride = out.view().stride0,
                    .vocabulary = vocabulary,
                    .dim = int(width)};
    cuda::launch("embed", kernel, cuda::row_pieces(int64_t(ids.size()), width, kThreads * 8, kThreads),
                 stream_, args);
    return out.fetch(stream_);
  }

  Rng rng_{51};
  cuda::Stream stream_;
};

// x has more columns between its rows than out.
class CopyRowsRun {
 public:
  template <class Args>
  bool is_right(void (*gather)(Args), void (*scatter)(Args)) {
    const Matrix x = uneven(rng_, 5, kWidth);
    const std::vector<int32_t> rows = {4, 1};
    const DeviceVector<int32_t> drows(stream_, rows);
    const auto run = [&](void (*kernel)(Args), const Matrix& from, const Matrix& to) {
      DeviceRows in(stream_, from, true), out(stream_, to, false);
      const Args args{.out = out.view().template ptr<float>(),
                      .x = in.view().template ptr<const float>(),
                      .rows = static_cast<const int32_t*>(drows.data()),
                      .out_stride = out.view().stride0,
                      .x_stride = in.view().stride0,
                      .dim = kWidth};
      cuda::launch("copy_rows", kernel, cuda::row_pieces(2, kWidth, kThreads * 4, kThreads), stream_, args);
      return out.fetch(stream_);
    };
    const Matrix gathered = run(gather, x, Matrix(2, kWidth));
    if (!(gathered.part(0, 1) == x.part(4, 1)) || !(gathered.part(1, 1) == x.part(1, 1))) return false;
    Matrix expected = x;
    const Matrix src = uneven(rng_, 2, kWidth);
    for (int64_t i = 0; i < 2; ++i) std::copy_n(src.row(i), kWidth, expected.row(rows[size_t(i)]));
    return run(scatter, src, x) == expected;
  }

 private:
  static constexpr int kWidth = 301;
  Rng rng_{52};
  cuda::Stream stream_;
};

class BiasRun {
 public:
  template <class Args>
  bool is_right(void (*add)(Args), void (*gelu)(Args)) {
    const Matrix x = uneven(rng_, 3, kWidth), bias = uneven(rng_, 1, kWidth);
    const DeviceVector<float> dbias = row_on_device(stream_, bias);
    const auto run = [&](void (*kernel)(Args)) {
      DeviceRows dx(stream_, x, false);
      const Args args{.x = dx.view().template ptr<float>(),
                      .bias = static_cast<const float*>(dbias.data()),
                      .x_stride = dx.view().stride0,
                      .dim = kWidth};
      cuda::launch("bias", kernel, cuda::row_pieces(3, kWidth, kThreads * 4, kThreads), stream_, args);
      return dx.fetch(stream_);
    };
    Matrix sum = x, activated = x;
    for (int64_t t = 0; t < 3; ++t)
      for (int64_t i = 0; i < kWidth; ++i) {
        const float y = x.row(t)[i] + bias.row(0)[i];
        sum.row(t)[i] = y;
        activated.row(t)[i] = float(0.5 * double(y) * std::erfc(-double(y) * 0.70710678118654752));
        if (y < -3) activated.row(t)[i] = -0.0f;  // beyond where the approximation is relative
      }
    if (!(run(add) == sum)) return false;
    Matrix found = run(gelu);
    for (int64_t t = 0; t < 3; ++t)
      for (int64_t i = 0; i < kWidth; ++i)
        if (sum.row(t)[i] < -3 && std::abs(found.row(t)[i]) < 0.005f) found.row(t)[i] = -0.0f;
    return all_close(found, activated, 1e-6);
  }

 private:
  static constexpr int kWidth = 301;
  Rng rng_{53};
  cuda::Stream stream_;
};

class LayerNormRun {
 public:
  template <class Args>
  bool is_right(void (*kernel)(Args)) {
    const int64_t width = 301;
    const Matrix x = uneven(rng_, 3, width), weight = uneven(rng_, 1, width), bias = uneven(rng_, 1, width);
    Matrix expected(3, width);
    for (int64_t t = 0; t < 3; ++t) {
      double mean = 0, variance = 0;
      for (int64_t i = 0; i < width; ++i) mean += double(x.row(t)[i]) / double(width);
      for (int64_t i = 0; i < width; ++i)
        variance += (double(x.row(t)[i]) - mean) * (double(x.row(t)[i]) - mean) / double(width);
      for (int64_t i = 0; i < width; ++i)
        expected.row(t)[i] =
            float((double(x.row(t)[i]) - mean) / std::sqrt(variance + kEps) * double(weight.row(0)[i]) +
                  double(bias.row(0)[i]));
    }
    const DeviceVector<float> dw = row_on_device(stream_, weight), db = row_on_device(stream_, bias);
    DeviceRows in(stream_, x, true), out(stream_, Matrix(3, width), false);
    const Args args{.out = out.view().template ptr<float>(),
                    .x = in.view().template ptr<const float>(),
                    .weight = static_cast<const float*>(dw.data()),
                    .bias = static_cast<const float*>(db.data()),
                    .out_stride = out.view().stride0,
                    .x_stride = in.view().stride0,
                    .dim = int(width),
                    .eps = float(kEps)};
    cuda::launch("layernorm", kernel, {.grid_x = 3, .threads = 64}, stream_, args);
    const Matrix found = out.fetch(stream_);
    for (int64_t t = 0; t < 3; ++t)
      for (int64_t i = 0; i < width; ++i)
        if (!(std::abs(found.row(t)[i] - expected.row(t)[i]) <= 1e-4f)) return false;
    return true;
  }

 private:
  static constexpr double kEps = 30.0;
  Rng rng_{54};
  cuda::Stream stream_;
};

}  // namespace

TEST(every_bug_of_embed_is_caught) {
  EmbedRun run;
#define RUN(space) run.is_right(space::embed_kernel<kThreads, true>, space::embed_kernel<kThreads, false>)
  CHECK_EQ(caught([&] { return RUN(cuda); }), "");  // without any bug
#define BUG(name) expect_caught(#name, [&] { return RUN(bugs::name); });
  LLAMA4RT_BUGS_OF_EMBED(BUG)
#undef BUG
#undef RUN
}

TEST(every_bug_of_copy_rows_is_caught) {
  CopyRowsRun run;
#define RUN(space)                                              \
  run.is_right(space::copy_rows_kernel<kThreads, false, false>, \
               space::copy_rows_kernel<kThreads, true, false>)
  CHECK_EQ(caught([&] { return RUN(cuda); }), "");
#define BUG(name) expect_caught(#name, [&] { return RUN(bugs::name); });
  LLAMA4RT_BUGS_OF_COPY_ROWS(BUG)
#undef BUG
#undef RUN
}

TEST(every_bug_of_bias_is_caught) {
  BiasRun run;
#define RUN(space) \
  run.is_right(space::bias_kernel<kThreads, false, false>, space::bias_kernel<kThreads, true, false>)
  CHECK_EQ(caught([&] { return RUN(cuda); }), "");
#define BUG(name) expect_caught(#name, [&] { return RUN(bugs::name); });
  LLAMA4RT_BUGS_OF_BIAS(BUG)
#undef BUG
#undef RUN
}

TEST(every_bug_of_layernorm_is_caught) {
  LayerNormRun run;
#define RUN(space) run.is_right(space::layernorm_kernel<64, false>)
  CHECK_EQ(caught([&] { return RUN(cuda); }), "");
#define BUG(name) expect_caught(#name, [&] { return RUN(bugs::name); });
  LLAMA4RT_BUGS_OF_LAYERNORM(BUG)
#undef BUG
#undef RUN
}

}  // namespace llama4rt::test
