// rotate_heads and tile_attention on the emulated GPU, through CUDA, against the reference.
#include "cuda/cuda_device.h"
#include "cuda/simt_test.h"
#include "reference/reference_ops.h"

namespace llama4rt::test {
namespace {

struct Tiles {
  cases::TilesCase shape;
  Matrix qkv;  // [tiles * rows, 3 * heads * D]
  float scale;

  Tiles(Rng& rng, const cases::TilesCase& c)
      : shape(c),
        qkv(random_activations(rng, c.tiles * c.rows, 3 * c.num_heads * c.head_dim)),
        scale(0.25f / float(c.head_dim)) {}
  int64_t width() const { return shape.num_heads * shape.head_dim; }
  void attend(Device& device, Tensor out, Tensor in) const {
    device.ops().tile_attention(out, in.columns(0, width()), in.columns(width(), width()),
                                in.columns(2 * width(), width()), shape.rows, shape.num_heads, scale);
  }
};

// What the kernel rounds: q, k and v to bf16, which the reference gets rounded, and probabilities.
Matrix rounded(const Matrix& m) {
  Matrix out = m;
  for (int64_t i = 0; i < m.rows(); ++i)
    for (int64_t j = 0; j < m.columns(); ++j) out.row(i)[j] = to_float(to_bf16(m.row(i)[j]));
  return out;
}

}  // namespace

TEST(tile_attention_conforms) {
  Rng rng(41);
  cuda::Stream stream;
  CudaDevice device(0);
  ReferenceDevice reference;
  size_t turn = 0;
  for (const cases::TilesCase& c : cases::kTilesCases) {
    SCOPE(c.tiles, " tiles of ", c.rows, " rows, ", c.num_heads, " heads of ", c.head_dim);
    const WithOptions with(schedules()[turn++ % 3]);
    Tiles tiles(rng, c);
    Matrix out(tiles.qkv.rows(), tiles.width());
    DeviceMatrix din(stream, tiles.qkv), dout(stream, out);
    tiles.attend(device, dout.view(), din.view());
    device.copy_to_host(nullptr, nullptr, 0);
    dout.fetch(stream);
    CHECK(out.intact());

    Matrix in = rounded(tiles.qkv), expected(out.rows(), out.columns()), size(out.rows(), out.columns());
    tiles.attend(reference, expected.view(), in.view());
    for (int64_t t = 0; t < in.rows(); ++t)
      for (int64_t i = 2 * tiles.width(); i < in.columns(); ++i) in.row(t)[i] = std::abs(in.row(t)[i]);
    tiles.attend(reference, size.view(), in.view());
    double worst = 0;
    for (int64_t t = 0; t < out.rows(); ++t)
      for (int64_t i = 0; i < out.columns(); ++i) {
        const double error = std::abs(double(out.row(t)[i]) - double(expected.row(t)[i]));
        const double relative = error <= 1e-30 ? 0.0 : error / double(size.row(t)[i]);
        if (!(relative <= worst)) worst = relative;
      }
    CHECK_CLOSE(worst, 0.0, 0x1p-8);
  }
}

TEST(rotate_heads_conforms) {
  Rng rng(42);
  cuda::Stream stream;
  CudaDevice device(0);
  ReferenceDevice reference;
  for (const cases::TilesCase& c : cases::kTilesCases) {
    if (c.rows > 100) continue;  // time
    SCOPE(c.tiles, " tiles of ", c.rows, " rows, ", c.num_heads, " heads of ", c.head_dim);
    Matrix x = random_activations(rng, c.tiles * c.rows, 2 * c.num_heads * c.head_dim), expected = x;
    Matrix angles(1, c.rows * c.head_dim);
    for (int64_t i = 0; i < angles.columns(); i += 2) {
      const double angle = rng.uniform(-4.0f, 4.0f);
      angles.row(0)[i] = float(std::cos(angle));
      angles.row(0)[i + 1] = float(std::sin(angle));
    }
    const auto rope = [&](void* data) { return Tensor(data, DType::kF32, {c.rows, c.head_dim / 2, 2}); };
    reference.ops().rotate_heads(expected.view(), rope(angles.row(0)));
    DeviceMatrix dx(stream, x), dangles(stream, angles);
    device.ops().rotate_heads(dx.view(), rope(dangles.view().data));
    device.copy_to_host(nullptr, nullptr, 0);
    dx.fetch(stream);
    CHECK(x.intact());
    for (int64_t t = 0; t < x.rows(); ++t)
      for (int64_t i = 0; i < x.columns(); i += 2) {
        const double size = std::hypot(double(expected.row(t)[i]), double(expected.row(t)[i + 1]));
        for (int64_t j = i; j < i + 2; ++j)
          CHECK_CLOSE(x.row(t)[j], expected.row(t)[j], 4 * 0x1p-24 * size + 1e-37);
      }
  }
}

}  // namespace llama4rt::test
