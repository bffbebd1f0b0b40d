// Every planted bug of prepare_qkv, rotate_heads and tile_pack must be caught: each must leave other bits
// than the kernel itself, which attention_test and tiles_test compare with the reference.
#include "cuda/kernels/prepare_qkv.cuh"
#include "cuda/kernels/rotate_heads.cuh"
#include "cuda/kernels/tile_pack.cuh"
#include "cuda/launch.h"
#include "cuda/teeth.h"
#include "planted_bugs/prepare_qkv_bugs.h"
#include "planted_bugs/rotate_heads_bugs.h"
#include "planted_bugs/tile_pack_bugs.h"

namespace llama4rt::test {
namespace {

class Bytes {
 public:
  Bytes(cuda::Stream& stream, size_t size) : stream_(stream), buffer_(size) {
    stream.fill(buffer_.data(), 0xff, size);
  }
  void* data() const { return buffer_.data(); }
  std::vector<unsigned char> fetch() const {
    std::vector<unsigned char> bytes(buffer_.size());
    stream_.copy_to_host(bytes.data(), buffer_.data(), bytes.size());
    stream_.synchronize();
    return bytes;
  }

 private:
  cuda::Stream& stream_;
  cuda::DeviceBuffer buffer_;
};

// Rows and the bytes of a cache after a kernel; the first one asked for is right.
class Results {
 public:
  bool same(const Matrix& rows, const std::vector<std::vector<unsigned char>>& bytes) {
    if (!rows.intact()) return false;
    if (!rows_) {
      rows_ = std::make_unique<Matrix>(rows);
      bytes_ = bytes;
    }
    return rows == *rows_ && bytes == bytes_;
  }

 private:
  std::unique_ptr<Matrix> rows_;
  std::vector<std::vector<unsigned char>> bytes_;
};

// Two tokens, 2 x 2 heads of 48, everything on.
class PrepareRun {
 public:
  template <class Config, class Args>
  bool is_right(void (*kernel)(Args)) {
    Matrix x = x_, angles = angles_, temperature = temperature_;
    DeviceMatrix dx(stream_, x), dangles(stream_, angles), dtemperature(stream_, temperature);
    const Bytes k(stream_, kCacheBytes), v(stream_, kCacheBytes);
    const std::vector<int64_t> slots = {30, 3};
    const cuda::DeviceBuffer dslots(slots.size() * 8);
    stream_.copy_to_device(dslots.data(), slots.data(), slots.size() * 8);
    float* const base = dx.view().ptr<float>();
    const int64_t stride = dx.view().stride0;
    cuda::launch("prepare_qkv", kernel, {.grid_x = kTokens, .grid_y = 2, .threads = Config::kThreads},
                 stream_,
                 Args{.q = base,
                      .k = base + 4 * kDim,
                      .v = base + 6 * kDim,
                      .rope = dangles.view().ptr<const float>(),
                      .q_scale = dtemperature.view().ptr<const float>(),
                      .slots = dslots.as<const int64_t>(),
                      .kv = {.k = k.data(),
                             .v = v.data(),
                             .num_heads = 2,
                             .block_size = 16,
                             .head_dim = kDim,
                             .cores = true},
                      .q_stride = stride,
                      .k_stride = stride,
                      .v_stride = stride,
                      .num_q_heads = 4,
                      .qk_norm = true,
                      .eps = 1e-5f});
    dx.fetch(stream_);
    return results_.same(x, {k.fetch(), v.fetch()});
  }

 private:
  static constexpr int kTokens = 2, kDim = 48;
  static constexpr size_t kCacheBytes = 2 * 2 * 16 * kDim * 2;
  Rng rng_{51};
  cuda::Stream stream_;
  Matrix x_ = uneven(rng_, kTokens, 8 * kDim), angles_ = uneven(rng_, 1, kTokens* kDim),
         temperature_ = uneven(rng_, 1, kTokens);
  Results results_;
};

// Three tiles of five rows, two heads of 6.
class RotateRun {
 public:
  template <class Args>
  bool is_right(void (*kernel)(Args)) {
    Matrix x = x_, angles = angles_;
    DeviceMatrix dx(stream_, x), dangles(stream_, angles);
    cuda::launch("rotate_heads", kernel, {.grid_x = 15, .threads = 32}, stream_,
                 Args{.x = dx.view().ptr<float>(),
                      .rope = dangles.view().ptr<const float>(),
                      .x_stride = dx.view().stride0,
                      .pairs = 6,
                      .head_pairs = 3,
                      .rows_per_tile = 5});
    dx.fetch(stream_);
    return results_.same(x, {});
  }

 private:
  Rng rng_{52};
  cuda::Stream stream_;
  Matrix x_ = uneven(rng_, 15, 12), angles_ = uneven(rng_, 1, 5 * 6);
  Results results_;
};

// Two tiles of 18 rows, two heads of 20 in 32.
class PackRun {
 public:
  template <class Args>
  bool is_right(void (*kernel)(Args)) {
    Matrix k = k_, v = v_;
    DeviceMatrix dk(stream_, k), dv(stream_, v);
    const Bytes packed_k(stream_, kBytes), packed_v(stream_, kBytes);
    cuda::launch("tile_pack", kernel, {.grid_x = 2, .grid_y = 2, .grid_z = 2, .threads = 32}, stream_,
                 Args{.k = dk.view().ptr<const float>(),
                      .v = dv.view().ptr<const float>(),
                      .kv = {.k = packed_k.data(),
                             .v = packed_v.data(),
                             .num_heads = 2,
                             .block_size = 32,
                             .head_dim = 32,
                             .cores = true},
                      .k_stride = dk.view().stride0,
                      .v_stride = dv.view().stride0,
                      .rows_per_tile = 18,
                      .head_dim = 20});
    return results_.same(k, {packed_k.fetch(), packed_v.fetch()});
  }

 private:
  static constexpr size_t kBytes = 2 * 2 * 32 * 32 * 2;
  Rng rng_{53};
  cuda::Stream stream_;
  Matrix k_ = uneven(rng_, 36, 40), v_ = uneven(rng_, 36, 40);
  Results results_;
};

}  // namespace

TEST(every_bug_of_prepare_qkv_is_caught) {
  PrepareRun run;
#define RUN(from)                                                  \
  [&] {                                                            \
    using Config = from::PrepareQkvConfig<cuda::KvBF16, 128>;      \
    return run.is_right<Config>(from::prepare_qkv_kernel<Config>); \
  }
  CHECK_EQ(caught(RUN(cuda)), "");
#define BUG(name) expect_caught(#name, RUN(bugs::name));
  LLAMA4RT_BUGS_OF_PREPARE_QKV(BUG)
#undef BUG
#undef RUN
}

TEST(every_bug_of_rotate_heads_is_caught) {
  RotateRun run;
  CHECK_EQ(caught([&] { return run.is_right(cuda::rotate_heads_kernel<32>); }), "");
#define BUG(name) expect_caught(#name, [&] { return run.is_right(bugs::name::rotate_heads_kernel<32>); });
  LLAMA4RT_BUGS_OF_ROTATE_HEADS(BUG)
#undef BUG
}

TEST(every_bug_of_tile_pack_is_caught) {
  PackRun run;
  CHECK_EQ(caught([&] { return run.is_right(cuda::tile_pack_kernel<32>); }), "");
#define BUG(name) expect_caught(#name, [&] { return run.is_right(bugs::name::tile_pack_kernel<32>); });
  LLAMA4RT_BUGS_OF_TILE_PACK(BUG)
#undef BUG
}

}  // namespace llama4rt::test
