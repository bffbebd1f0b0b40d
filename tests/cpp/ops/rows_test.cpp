// embed, gather_rows and scatter_rows: exact on every device.
#include "ops/conformance.h"

namespace llama4rt::test {
namespace {

Tensor indices(std::vector<int32_t>& v) { return Tensor(v.data(), DType::kI32, {int64_t(v.size())}); }

template <class F>
void on_every_device(const F& f) {
  f(reference());
  for (const Subject& s : subjects()) {
    SCOPE(s.label);
    f(*s.device);
  }
}

}  // namespace

TEST(embed_is_exact) {
  SEEDED(rng);
  for (int64_t width : {1, 15, 64, 333}) {
    const int64_t vocabulary = 50;
    std::vector<bf16> table(size_t(vocabulary * width));
    for (bf16& x : table) x = to_bf16(rng.normal());
    const Weight weight{.kind = WeightKind::kBF16,
                        .layout = Layout::kRowMajor,
                        .n = vocabulary,
                        .k = width,
                        .data = table.data()};
    std::vector<int32_t> ids = {0, 49, 7, 7, 31};
    on_every_device([&](Device& device) {
      Matrix out(5, width);
      device.ops().embed(out.view(), weight, indices(ids));
      CHECK(out.intact());
      for (int64_t t = 0; t < 5; ++t)
        for (int64_t i = 0; i < width; ++i)
          CHECK_EQ(out.row(t)[i], to_float(table[size_t(ids[size_t(t)] * width + i)]));
    });
  }
}

TEST(gather_and_scatter_are_exact) {
  SEEDED(rng);
  for (int64_t width : {1, 15, 64, 333}) {
    const Matrix x = random_activations(rng, 9, width), src = random_activations(rng, 3, width);
    std::vector<int32_t> rows = {8, 0, 4};
    on_every_device([&](Device& device) {
      Matrix from = x, out(3, width), to = x, in = src;
      device.ops().gather_rows(out.view(), from.view(), indices(rows));
      device.ops().scatter_rows(to.view(), indices(rows), in.view());
      CHECK(out.intact() && to.intact());
      Matrix expected = x;
      for (int64_t i = 0; i < 3; ++i) {
        CHECK(out.part(i, 1) == x.part(rows[size_t(i)], 1));
        std::copy_n(src.row(i), width, expected.row(rows[size_t(i)]));
      }
      CHECK(to == expected);
    });
  }
}

TEST(no_rows_is_no_work) {
  std::vector<int32_t> none;
  Matrix x(3, 8), nothing(0, 8);
  std::vector<float> ones(8, 1.0f);
  on_every_device([&](Device& device) {
    device.ops().gather_rows(nothing.view(), x.view(), indices(none));
    device.ops().scatter_rows(x.view(), indices(none), nothing.view());
    const Tensor vector(ones.data(), DType::kF32, {8});
    device.ops().rmsnorm(nothing.view(), nothing.view(), vector, 1e-5f);
    device.ops().layernorm(nothing.view(), nothing.view(), vector, vector, 1e-5f);
    device.ops().add_bias(nothing.view(), vector);
    device.ops().gelu(nothing.view(), vector);
    device.ops().tile_attention(nothing.view(), nothing.view(), nothing.view(), nothing.view(), 3, 2, 1.0f);
  });
}

}  // namespace llama4rt::test
