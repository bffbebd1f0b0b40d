// prepare_qkv and paged_attention on the emulated GPU, through CUDA, against the reference.
#include "cuda/attention_harness.h"

namespace llama4rt::test {
namespace {

std::string describe(const cases::AttentionCase& c) {
  return error_text(c.num_kv_heads, " x ", c.group, " heads of ", c.head_dim, ", blocks of ", c.block_size,
                    ", ", kv_kind_name(c.kv_format), ", ", c.sequences.size(), " sequences, first at ",
                    c.sequences[0].first_position);
}

// What a kernel with mma rounds: queries to bf16 (the reference gets them rounded) and probabilities to bf16,
// 2^-9 of each; their sum is made of the rounded ones. Plain attention rounds nothing.
double tolerance(const cases::AttentionCase& c) { return c.kv_format == KvKind::kF32 ? 1e-5 : 0x1p-8; }

// Without the checker, which has seen these kernels: a long run would take minutes with it.
auto fast() {
#ifdef LLAMA4RT_SIMT_EMULATOR
  return simt::Options{.check = false};
#else
  return Schedule{};
#endif
}

void check(Rng& rng, const cases::AttentionCase& c) {
  SCOPE(describe(c));
  AttentionWorld world(rng, c);
  const Matrix out = world.attend(0, c.num_tokens());
  CHECK(out.intact());
  // Kernels with mma take q in bf16; attention_plain, which serves all other caches, as it is.
  const bool has_mma = c.kv_format != KvKind::kF32 && c.head_dim % 16 == 0 && c.head_dim <= 128;
  CHECK_CLOSE(worst_error(out, world.expected(has_mma)), 0.0, has_mma ? tolerance(c) : 1e-5);
}

}  // namespace

// The order of additions follows absolute positions: a token gives the same bits as decode, in slices of a
// prompt, and whatever else is in the batch.
TEST(neither_slices_nor_kernels_change_a_bit) {
  Rng rng(32);
  for (const KvKind format : {KvKind::kBF16, KvKind::kF8E4M3}) {
    SCOPE(kv_kind_name(format));
    AttentionWorld world(rng, {.num_kv_heads = 1,
                               .group = 5,
                               .head_dim = 32,
                               .block_size = 32,
                               .kv_format = format,
                               .sequences = {{.first_position = 500, .length = 40}}});
    const Matrix whole = world.attend(0, 40);
    CHECK_CLOSE(worst_error(whole, world.expected(true)), 0.0, 0x1p-8);
    for (const auto& [first, count] :
         {std::pair<int64_t, int64_t>{0, 7}, {7, 7}, {3, 30}, {11, 1}, {12, 1}, {39, 1}, {10, 6}}) {
      SCOPE("rows ", first, " to ", first + count);
      CHECK(world.attend(first, count) == whole.part(first, count));
    }
  }
}

TEST(every_shared_case_conforms) {
  Rng rng(31);
  size_t turn = 0;
  for (cases::AttentionCase c : cases::attention_cases()) {
    const WithOptions with(schedules()[turn % 3]);
    ++turn;
    if (c.kv_format == KvKind::kF32 && (c.head_dim != 80 || c.group > 3)) continue;  // time
    if (c.group == 8 && c.head_dim > 64) continue;                                   // likewise
    if (turn % 5 == 0) c.kv_format = KvKind::kF8E4M3;
    check(rng, c);
  }
}

// Kernels are compiled for a few largest head dims and each format: those that no shared case takes.
TEST(kernels_for_rare_heads_conform) {
  Rng rng(41);
  struct Kernel {
    KvKind format;
    int head_dim;
    int64_t length;
  };
  for (const Kernel& kernel :
       {Kernel{KvKind::kBF16, 20, 3}, Kernel{KvKind::kF8E4M3, 20, 3}, Kernel{KvKind::kBF16, 160, 3},
        Kernel{KvKind::kF8E4M3, 160, 3}, Kernel{KvKind::kF32, 160, 3}, Kernel{KvKind::kF8E4M3, 128, 40},
        Kernel{KvKind::kF8E4M3, 128, 3}})
    check(rng, {.num_kv_heads = 1,
                .group = 2,
                .head_dim = kernel.head_dim,
                .block_size = 16,
                .kv_format = kernel.format,
                .sequences = {{.first_position = 300, .length = kernel.length}}});
}

// The kernel with wgmma: many rows, heads of 64 and 128 dims, a last tile of every size.
TEST(hopper_gives_the_same_bits) {
  Rng rng(37);
  for (const int head_dim : {64, 128})
    for (const int64_t first : {0, 239, 300}) {
      AttentionWorld world(rng,
                           {.num_kv_heads = 1,
                            .group = 5,
                            .head_dim = head_dim,
                            .block_size = 48,
                            .kv_format = KvKind::kBF16,
                            .sequences = {{.first_position = first, .length = 33},
                                          {.kv_begin = 96, .first_position = first + 100, .length = 3}}});
      SCOPE("heads of ", head_dim, ", first at ", first);
      const Matrix whole = world.attend(0, 36);
      CHECK(whole.intact());
      CHECK_CLOSE(worst_error(whole, world.expected(true)), 0.0, 0x1p-8);
      for (const auto& [row, count] : {std::pair<int64_t, int64_t>{0, 13}, {5, 1}, {30, 6}, {3, 14}}) {
        SCOPE("rows ", row, " to ", row + count);
        CHECK(world.attend(row, count) == whole.part(row, count));
      }
    }
}

// Blocks whose slots, and positions whose numbers, are beyond 32 bits; every kernel.
TEST(nothing_is_counted_in_32_bits) {
  Rng rng(38);
  constexpr int64_t kFar = 16 * 200'000'000LL;
  struct Kernel {
    KvKind format;
    int head_dim;
    int64_t length;
  };
  for (const Kernel& kernel :
       {Kernel{KvKind::kBF16, 64, 1}, Kernel{KvKind::kBF16, 32, 40}, Kernel{KvKind::kBF16, 64, 40},
        Kernel{KvKind::kF8E4M3, 32, 2}, Kernel{KvKind::kF32, 32, 2}}) {
    const cases::AttentionCase c{
        .num_kv_heads = 1,
        .group = 2,
        .head_dim = kernel.head_dim,
        .block_size = 16,
        .kv_format = kernel.format,
        .sequences = {{.kv_begin = kFar, .first_position = kFar + 90, .length = kernel.length}}};
    SCOPE(kv_kind_name(kernel.format), ", heads of ", kernel.head_dim, ", ", kernel.length, " tokens");
    AttentionWorld world(rng, c, 200'000'000);
    const Matrix out = world.attend(0, kernel.length);
    CHECK(out.intact());
    CHECK_CLOSE(worst_error(out, world.expected(kernel.format != KvKind::kF32)), 0.0, tolerance(c));
  }
}

// Splits of every length: 40 of the middle ones and one of the long ones.
TEST(long_contexts_conform) {
  Rng rng(39);
  for (const int64_t position : {49'000, 140'000}) {
    const cases::AttentionCase c{.num_kv_heads = 1,
                                 .group = 2,
                                 .head_dim = 16,
                                 .block_size = 64,
                                 .kv_format = KvKind::kBF16,
                                 .sequences = {{.first_position = 511, .length = 1}}};  // whole blocks
    SCOPE(position, " keys");
    AttentionWorld world(rng, c);
    world.lengthen(position);
    const WithOptions with(fast());
    const Matrix out = world.attend(0, 1);
    CHECK(out.intact());
    CHECK_CLOSE(worst_error(out, world.expected(true)), 0.0, 0x1p-8);
  }
}

// More splits than attention_decode merges at a time, against attention_prefill, which merges one by one.
TEST(many_splits_give_the_same_bits) {
  Rng rng(40);
  AttentionWorld world(rng, {.num_kv_heads = 1,
                             .group = 2,
                             .head_dim = 16,
                             .block_size = 64,
                             .kv_format = KvKind::kBF16,
                             .sequences = {{.first_position = 494, .length = 18}}});  // whole blocks
  world.lengthen(9000);
  const WithOptions with(fast());
  const Matrix whole = world.attend(0, 18);
  CHECK(whole.intact());
  for (const int64_t row : {0, 17}) CHECK(world.attend(row, 1) == whole.part(row, 1));
}

// q, k and v as prepare_qkv leaves them, and what it put into the cache, seen through attention: both against
// the reference, from one fused product.
TEST(prepare_qkv_conforms) {
  Rng rng(33);
  cuda::Stream stream;
  CudaDevice device(0);
  ReferenceDevice reference;
  size_t turn = 0;
  std::vector<cases::QkvCase> all = cases::qkv_cases();
  for (const KvKind format : {KvKind::kBF16, KvKind::kF32, KvKind::kF8E4M3}) {
    all.push_back(all.front());
    all.back().head_dim = 192;
    all.back().kv_format = format;
  }
  for (const cases::QkvCase& c : all) {
    const WithOptions with(schedules()[turn % 3]);
    const KvKind format = ++turn % 3 == 0 && c.head_dim <= 128 ? KvKind::kF8E4M3 : c.kv_format;
    SCOPE("T ", c.tokens, ", ", c.num_kv_heads, " x ", c.group, " heads of ", c.head_dim,
          c.rope ? ", rope" : "", c.qk_norm ? ", norm" : "", c.q_scale ? ", scale" : "", ", ",
          kv_kind_name(format));
    const int64_t dim = c.head_dim, q_width = c.num_kv_heads * c.group * dim, kv_width = c.num_kv_heads * dim;
    Matrix x = random_activations(rng, c.tokens, q_width + 2 * kv_width), expected = x;
    std::vector<float> angles, temperature;
    for (int64_t t = 0; t < c.tokens; ++t) {
      temperature.push_back(rng.uniform(1.0f, 2.0f));
      for (int64_t i = 0; i < dim / 2; ++i) {
        const double angle = rng.uniform(-4.0f, 4.0f);
        angles.insert(angles.end(), {float(std::cos(angle)), float(std::sin(angle))});
      }
    }
    // Slots from two blocks, backwards.
    std::vector<int64_t> slots;
    for (int64_t t = 0; t < c.tokens; ++t) slots.push_back(31 - t);
    const DeviceArray<float> dangles(stream, angles), dtemperature(stream, temperature);
    const DeviceArray<int64_t> dslots(stream, slots);
    KvPair kv(
        stream, 2,
        {.num_kv_heads = c.num_kv_heads, .head_dim = c.head_dim, .block_size = 16, .kv_format = format});
    const auto prepare = [&](Device& on, Tensor qkv, const KvLayer& layer, void* rope, void* q_scale,
                             void* at) {
      QkvTransform transform;
      transform.qk_norm = c.qk_norm;
      transform.qk_norm_eps = 1e-5f;
      if (c.rope) transform.rope = Tensor(rope, DType::kF32, {c.tokens, dim / 2, 2});
      if (c.q_scale) transform.q_scale = Tensor(q_scale, DType::kF32, {c.tokens});
      on.ops().prepare_qkv(qkv.columns(0, q_width), qkv.columns(q_width, kv_width),
                           qkv.columns(q_width + kv_width, kv_width), transform, layer,
                           Tensor(at, DType::kI64, {c.tokens}));
    };
    prepare(reference, expected.view(), kv.host(), angles.data(), temperature.data(), slots.data());
    DeviceMatrix dx(stream, x);
    prepare(device, dx.view(), kv.device(), dangles.get(), dtemperature.get(), dslots.get());
    device.copy_to_host(nullptr, nullptr, 0);
    dx.fetch(stream);
    CHECK(x.intact());
    for (int64_t t = 0; t < c.tokens; ++t)
      for (int64_t head = 0; head < x.columns(); head += dim) {
        double size = 0;
        for (int64_t i = 0; i < dim; ++i) size = std::max(size, std::abs(double(expected.row(t)[head + i])));
        for (int64_t i = 0; i < dim; ++i)
          CHECK_CLOSE(x.row(t)[head + i], expected.row(t)[head + i], 0x1p-21 * size + 1e-37);
      }

    // One key per token: attention gives back its value, from the reference's cache and from ours.
    const std::vector<int32_t> starts = {0, 1}, table = {1};
    const std::vector<int64_t> zeros = {0};
    const DeviceArray<int32_t> dstarts(stream, starts), dtable(stream, table);
    const DeviceArray<int64_t> dzeros(stream, zeros);
    Matrix q(1, q_width), out(1, q_width), want(1, q_width);
    std::fill_n(q.row(0), q_width, 0.5f);
    AttentionBatch batch{.num_seqs = 1,
                         .query_start = starts.data(),
                         .first_position = zeros.data(),
                         .kv_begin = zeros.data(),
                         .block_table = table.data(),
                         .max_blocks = 1,
                         .max_query_len = 1};
    // Token 15 went to the first slot of block 1; with fewer tokens nothing did.
    if (c.tokens < 16) continue;
    reference.ops().paged_attention(want.view(), q.view(), kv.host(), batch, 1.0f);
    batch.query_start = dstarts.data();
    batch.block_table = dtable.data();
    batch.first_position = batch.kv_begin = dzeros.data();
    DeviceMatrix dq(stream, q), dout(stream, out);
    device.ops().paged_attention(dout.view(), dq.view(), kv.device(), batch, 1.0f);
    device.copy_to_host(nullptr, nullptr, 0);
    dout.fetch(stream);
    CHECK(out == want);
  }
}

TEST(huge_scores_do_not_overflow) {
  Rng rng(34);
  for (const KvKind format : {KvKind::kF32, KvKind::kBF16, KvKind::kF8E4M3}) {
    AttentionWorld world(rng, {.num_kv_heads = 1,
                               .group = 2,
                               .head_dim = 64,
                               .kv_format = format,
                               .sequences = {{.first_position = 300, .length = 3}}});
    world.set_scale(1e4f);
    const Matrix out = world.attend(0, 3);
    for (int64_t t = 0; t < 3; ++t)
      for (int64_t i = 0; i < out.columns(); ++i) CHECK(std::isfinite(out.row(t)[i]));
  }
}

}  // namespace llama4rt::test
