// embed, gather_rows, scatter_rows, add_bias: exact. gelu: as exact as device/exp.cuh says.
#include "cuda/kernels/rows.h"

#include <numbers>

#include "cuda/device_rows.h"
#include "reference/reference_ops.h"

namespace llama4rt::test {
namespace {

ReferenceDevice& reference() {
  static ReferenceDevice device;
  return device;
}

// f under every schedule, with aligned rows and with others.
template <class F>
void in_every_way(const F& f) {
  for (const auto& o : schedules())
    for (const bool aligned : {true, false}) {
      SCOPE(describe(o), aligned ? ", aligned" : ", not aligned");
      const WithOptions with(o);
      f(aligned);
    }
}

}  // namespace

TEST(embed_is_exact) {
  Rng rng(31);
  cuda::Stream stream;
  const int64_t vocabulary = 50;
  for (const int64_t width : {1, 15, 64, 333, 1288}) {
    std::vector<uint16_t> table(size_t(vocabulary * width));
    for (uint16_t& x : table) x = uint16_t(rng.bits());  // every pattern, NaN and infinity among them
    const DeviceVector<uint16_t> dtable(stream, table);
    const Weight weight{.kind = WeightKind::kBF16,
                        .layout = Layout::kRowMajor,
                        .n = vocabulary,
                        .k = width,
                        .data = dtable.data()};
    const std::vector<int32_t> ids = {0, 49, 7, 7, 31, 50, -1};
    const DeviceVector<int32_t> dids(stream, ids);
    in_every_way([&](bool aligned) {
      SCOPE("width ", width);
      DeviceRows out(stream, Matrix(7, width), aligned);
      cuda::run_embed(stream, out.view(), weight, dids.view(DType::kI32));
      const Matrix found = out.fetch(stream);
      for (int64_t t = 0; t < 7; ++t)
        for (int64_t i = 0; i < width; ++i) {
          const uint32_t want =
              t < 5 ? uint32_t(table[size_t(ids[size_t(t)] * width + i)]) << 16 : 0x7fc00000u;
          CHECK_EQ(std::bit_cast<uint32_t>(found.row(t)[i]), want);
        }
    });
  }
}

TEST(embed_addresses_in_64_bits) {
  cuda::Stream stream;
  const int64_t width = 5120, vocabulary = 1'000'000;  // 10 GB, of which only the last row exists here
  const DeviceVector<uint16_t> last(stream, std::vector<uint16_t>(size_t(width), uint16_t(0x3f80)));
  const auto first = reinterpret_cast<uintptr_t>(last.data()) - uintptr_t((vocabulary - 1) * width * 2);
  const Weight weight{.kind = WeightKind::kBF16,
                      .layout = Layout::kRowMajor,
                      .n = vocabulary,
                      .k = width,
                      .data = reinterpret_cast<const void*>(first)};
  const DeviceVector<int32_t> ids(stream, std::vector<int32_t>{int32_t(vocabulary) - 1});
  in_every_way([&](bool aligned) {
    DeviceRows out(stream, Matrix(1, width), aligned);
    cuda::run_embed(stream, out.view(), weight, ids.view(DType::kI32));
    const Matrix found = out.fetch(stream);
    CHECK(std::all_of(found.row(0), found.row(0) + width, [](float x) { return x == 1.0f; }));
  });
}

TEST(gather_and_scatter_are_exact) {
  Rng rng(32);
  cuda::Stream stream;
  for (const int64_t width : {1, 15, 64, 333, 2052}) {
    const Matrix x = random_activations(rng, 9, width), src = random_activations(rng, 3, width);
    const std::vector<int32_t> rows = {8, 0, 4};
    const DeviceVector<int32_t> drows(stream, rows);
    Matrix scattered = x;
    for (int64_t i = 0; i < 3; ++i) std::copy_n(src.row(i), width, scattered.row(rows[size_t(i)]));
    in_every_way([&](bool aligned) {
      SCOPE("width ", width);
      DeviceRows dx(stream, x, aligned), dsrc(stream, src, aligned), out(stream, Matrix(3, width), aligned);
      cuda::run_gather_rows(stream, out.view(), dx.view(), drows.view(DType::kI32));
      cuda::run_scatter_rows(stream, dx.view(), drows.view(DType::kI32), dsrc.view());
      const Matrix gathered = out.fetch(stream);
      for (int64_t i = 0; i < 3; ++i) CHECK(gathered.part(i, 1) == x.part(rows[size_t(i)], 1));
      CHECK(dx.fetch(stream) == scattered);
    });
  }
}

TEST(add_bias_is_exact) {
  Rng rng(33);
  cuda::Stream stream;
  for (const cases::RowsCase& c : cases::kRowsCases) {
    const Matrix x = random_activations(rng, c.tokens, c.dim);
    Matrix bias = random_activations(rng, 1, c.dim), expected = x;
    reference().ops().add_bias(expected.view(), Tensor(bias.row(0), DType::kF32, {c.dim}));
    const DeviceVector<float> dbias = row_on_device(stream, bias);
    in_every_way([&](bool aligned) {
      SCOPE(c.tokens, " tokens, dim ", c.dim);
      DeviceRows dx(stream, x, aligned);
      cuda::run_add_bias(stream, dx.view(), dbias.view(DType::kF32));
      CHECK(dx.fetch(stream) == expected);
    });
  }
}

TEST(gelu_conforms) {
  Rng rng(34);
  cuda::Stream stream;
  for (const cases::RowsCase& c : cases::kRowsCases)
    for (const bool with_bias : {true, false}) {
      const Matrix x = random_activations(rng, c.tokens, c.dim);
      Matrix bias = random_activations(rng, 1, c.dim), expected = x;
      reference().ops().gelu(expected.view(),
                             with_bias ? Tensor(bias.row(0), DType::kF32, {c.dim}) : Tensor());
      const DeviceVector<float> dbias = row_on_device(stream, bias);
      in_every_way([&](bool aligned) {
        SCOPE(c.tokens, " tokens, dim ", c.dim, with_bias ? ", bias" : "");
        DeviceRows dx(stream, x, aligned);
        cuda::run_gelu(stream, dx.view(), with_bias ? dbias.view(DType::kF32) : Tensor());
        const Matrix found = dx.fetch(stream);
        for (int64_t t = 0; t < c.tokens; ++t)
          for (int64_t i = 0; i < c.dim; ++i) {
            const double y =
                std::abs(double(x.row(t)[i])) + (with_bias ? std::abs(double(bias.row(0)[i])) : 0);
            CHECK_CLOSE(found.row(t)[i], expected.row(t)[i], 4e-7 * y + 1e-37);  // two approximations
          }
      });
    }
}

// The bounds that device/exp.cuh states.
TEST(gelu_is_as_exact_as_it_says) {
  cuda::Stream stream;
  Matrix y(1, 28001);
  for (int64_t i = 0; i < y.columns(); ++i) y.row(0)[i] = float(i - 14000) * 1e-3f;
  DeviceRows dy(stream, y, true);
  cuda::run_gelu(stream, dy.view(), {});
  const Matrix found = dy.fetch(stream);
  double worst = 0, worst_relative = 0;
  for (int64_t i = 0; i < y.columns(); ++i) {
    const double value = y.row(0)[i], exact = 0.5 * value * std::erfc(-value / std::numbers::sqrt2);
    if (value == 0) continue;
    const double error = std::abs(double(found.row(0)[i]) - exact);
    worst = std::max(worst, error / std::abs(value));
    if (value > -3) worst_relative = std::max(worst_relative, error / std::abs(exact));
  }
  CHECK_CLOSE(worst, 0.0, 1.3e-7);
  CHECK_CLOSE(worst_relative, 0.0, 4e-7);
}

TEST(gelu_of_extreme_values) {
  const float infinity = std::numeric_limits<float>::infinity();
  cuda::Stream stream;
  Matrix y(1, 7);
  const float values[] = {0.0f, infinity, -infinity, std::nanf(""), 3e38f, -3e38f, 1e-30f};
  std::copy_n(values, 7, y.row(0));
  DeviceRows dy(stream, y, false);
  cuda::run_gelu(stream, dy.view(), {});
  const Matrix found = dy.fetch(stream);
  CHECK_EQ(found.row(0)[0], 0.0f);
  CHECK_EQ(found.row(0)[1], infinity);
  CHECK_CLOSE(found.row(0)[2], 0.0, 1e-34);
  CHECK(std::isnan(found.row(0)[3]));
  CHECK_EQ(found.row(0)[4], 3e38f);
  CHECK_CLOSE(found.row(0)[5], 0.0, 1e-34);
  CHECK_CLOSE(found.row(0)[6], 0.5e-30, 1e-37);
}

}  // namespace llama4rt::test
