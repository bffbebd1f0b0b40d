// Wrong shapes, dtypes and weights: each is one typed error from the one place that checks, and never reaches
// a device.
#include "ops/conformance.h"

namespace llama4rt::test {
namespace {

Tensor f32(void* data, std::initializer_list<int64_t> dims) { return Tensor(data, DType::kF32, dims); }

struct Fixture {
  Rng rng{1};
  std::vector<float> memory = std::vector<float>(1 << 16);
  std::vector<float> other = std::vector<float>(1 << 16);
  std::vector<int64_t> slots = std::vector<int64_t>(16);
  Device& device = reference();
  float* a = memory.data();
  float* b = other.data();
};

}  // namespace

TEST(the_message_says_what_was_found_and_expected) {
  Fixture f;
  std::string message;
  try {
    f.device.ops().rmsnorm(f32(f.a, {3, 8}), f32(f.b, {3, 9}), f32(f.b, {9}), 1e-5f);
  } catch (const Error& e) {
    message = e.what();
  }
  CHECK_EQ(message, "rmsnorm: out is F32 [3, 8]; expected F32 [3, 9]");
}

TEST(rmsnorm_refuses) {
  Fixture f;
  CHECK_THROWS(kInternal, f.device.ops().rmsnorm(f32(f.a, {3, 8}), f32(f.b, {2, 8}), f32(f.b, {8}), 1e-5f));
  CHECK_THROWS(kInternal, f.device.ops().rmsnorm(f32(f.a, {3, 8}), f32(f.b, {3, 8}), f32(f.b, {7}), 1e-5f));
  CHECK_THROWS(kInternal, f.device.ops().rmsnorm(f32(f.a, {3, 8}), f32(f.b, {24}), f32(f.b, {8}), 1e-5f));
  CHECK_THROWS(kInternal, f.device.ops().rmsnorm(Tensor(f.a, DType::kBF16, {3, 8}), f32(f.b, {3, 8}),
                                                 f32(f.b, {8}), 1e-5f));
  CHECK_THROWS(kInternal,
               f.device.ops().rmsnorm(f32(nullptr, {3, 8}), f32(f.b, {3, 8}), f32(f.b, {8}), 1e-5f));
}

TEST(layernorm_refuses) {
  Fixture f;
  const auto layernorm = [&](Tensor out, int64_t weight, int64_t bias) {
    f.device.ops().layernorm(out, f32(f.b, {3, 8}), f32(f.b, {weight}), f32(f.b, {bias}), 1e-5f);
  };
  std::fill_n(f.b, 24, 1.0f);
  layernorm(f32(f.a, {3, 8}), 8, 8);
  CHECK_THROWS(kInternal, layernorm(f32(f.a, {2, 8}), 8, 8));
  CHECK_THROWS(kInternal, layernorm(f32(f.a, {3, 8}), 7, 8));
  CHECK_THROWS(kInternal, layernorm(f32(f.a, {3, 8}), 8, 9));
  CHECK_THROWS(kInternal, layernorm(f32(nullptr, {3, 8}), 8, 8));
  CHECK_THROWS(kInternal,
               f.device.ops().layernorm(f32(f.a, {3, 8}), f32(f.b, {3, 8}), f32(f.b, {8}), Tensor(), 1e-5f));
}

TEST(bias_and_gelu_refuse) {
  Fixture f;
  f.device.ops().add_bias(f32(f.a, {3, 8}), f32(f.b, {8}));
  CHECK_THROWS(kInternal, f.device.ops().add_bias(f32(f.a, {3, 8}), f32(f.b, {3, 8})));
  CHECK_THROWS(kInternal, f.device.ops().add_bias(f32(f.a, {3, 8}), f32(f.b, {7})));
  CHECK_THROWS(kInternal, f.device.ops().add_bias(f32(f.a, {3, 8}), Tensor()));
  CHECK_THROWS(kInternal, f.device.ops().add_bias(f32(f.a, {24}), f32(f.b, {24})));
  f.device.ops().gelu(f32(f.a, {3, 8}), f32(f.b, {8}));
  f.device.ops().gelu(f32(f.a, {3, 8}), {});
  CHECK_THROWS(kInternal, f.device.ops().gelu(f32(f.a, {3, 8}), f32(f.b, {9})));
  CHECK_THROWS(kInternal, f.device.ops().gelu(Tensor(f.a, DType::kBF16, {3, 8}), {}));
}

TEST(tile_ops_refuse) {
  Fixture f;
  f.device.ops().rotate_heads(f32(f.a, {6, 16}), f32(f.b, {3, 4, 2}));
  CHECK_THROWS(kInternal,
               f.device.ops().rotate_heads(f32(f.a, {7, 16}), f32(f.b, {3, 4, 2})));  // half a tile
  CHECK_THROWS(kInternal,
               f.device.ops().rotate_heads(f32(f.a, {6, 20}), f32(f.b, {3, 4, 2})));  // half a head
  CHECK_THROWS(kInternal, f.device.ops().rotate_heads(f32(f.a, {6, 16}), f32(f.b, {3, 8})));
  CHECK_THROWS(kInternal, f.device.ops().rotate_heads(f32(f.a, {6, 16}), f32(f.b, {0, 4, 2})));
  CHECK_THROWS(kInternal, f.device.ops().rotate_heads(f32(f.a, {6, 16}), Tensor()));

  const auto attend = [&](Tensor out, Tensor v, int64_t rows_per_tile, int num_heads) {
    const Tensor qk = f32(f.b, {6, 32});
    f.device.ops().tile_attention(out, qk.columns(0, 16), qk.columns(16, 16), v, rows_per_tile, num_heads,
                                  1.0f);
  };
  const Tensor out = f32(f.a, {6, 16}), v = f32(f.b + 1000, {6, 16});
  attend(out, v, 3, 2);
  CHECK_THROWS(kInternal, attend(out, v, 4, 2));
  CHECK_THROWS(kInternal, attend(out, v, 0, 2));
  CHECK_THROWS(kInternal, attend(out, v, 3, 3));
  CHECK_THROWS(kInternal, attend(out, v, 3, 16));  // heads of one: no pairs
  CHECK_THROWS(kInternal, attend(out, v, 3, 0));
  CHECK_THROWS(kInternal, attend(out, f32(f.b, {5, 16}), 3, 2));
  CHECK_THROWS(kInternal, attend(f32(f.a, {6, 15}), v, 3, 2));
  CHECK_THROWS(kInternal, attend(v, v, 3, 2));
}

TEST(linear_refuses) {
  Fixture f;
  const RandomWeight good(f.rng, cases::kInt4, 1, 32, 128);
  const auto linear = [&](int64_t n, int64_t k, const Weight& w) {
    f.device.ops().linear(f32(f.a, {2, n}), f32(f.b, {2, k}), w);
  };
  linear(32, 128, good.view());
  CHECK_THROWS(kInternal, linear(31, 128, good.view()));
  CHECK_THROWS(kInternal, linear(32, 127, good.view()));
  Weight bad = good.view();
  bad.layout = Layout::kRowMajor;
  CHECK_THROWS(kInternal, linear(32, 128, bad));
  bad = good.view(), bad.data = nullptr;
  CHECK_THROWS(kInternal, linear(32, 128, bad));
  bad = good.view(), bad.scales = nullptr;
  CHECK_THROWS(kInternal, linear(32, 128, bad));
  bad = good.view(), bad.scale_dtype = DType::kI32;
  CHECK_THROWS(kInternal, linear(32, 128, bad));
  bad = good.view(), bad.scale_dtype = DType::kI8;  // without factors
  CHECK_THROWS(kInternal, linear(32, 128, bad));
  bad = good.view(), bad.offset_factors = static_cast<const float*>(bad.scales);
  CHECK_THROWS(kInternal, linear(32, 128, bad));
  bad = good.view(), bad.kind = WeightKind::kTable4, bad.offsets = bad.scales;
  CHECK_THROWS(kInternal, linear(32, 128, bad));
  bad = good.view(), bad.group_size = 48;
  CHECK_THROWS(kInternal, linear(32, 128, bad));
  bad = good.view(), bad.num_experts = 2;
  CHECK_THROWS(kInternal, linear(32, 128, bad));
  CHECK_THROWS(kInternal, f.device.ops().linear(f32(f.a, {2, 32}), f32(f.a, {2, 128}), good.view()));
  CHECK_THROWS(kInternal, f.device.ops().linear_add(f32(f.a, {3, 32}), f32(f.b, {2, 128}), good.view()));
}

TEST(gate_up_refuses) {
  Fixture f;
  const RandomGateUp good(f.rng, cases::kBF16, 1, 20, 64);
  f.device.ops().gate_up(f32(f.a, {2, 20}), f32(f.b, {2, 64}), good.view());
  CHECK_THROWS(kInternal, f.device.ops().gate_up(f32(f.a, {2, 40}), f32(f.b, {2, 64}), good.view()));
  CHECK_THROWS(kInternal, f.device.ops().gate_up(f32(f.a, {1, 20}), f32(f.b, {2, 64}), good.view()));
  CHECK_THROWS(kInternal, f.device.ops().gate_up(f32(f.a, {2, 20}), f32(f.b, {2, 63}), good.view()));
}

TEST(embed_and_row_ops_refuse) {
  Fixture f;
  std::vector<bf16> table(10 * 8);
  const Weight weight{.layout = Layout::kRowMajor, .n = 10, .k = 8, .data = table.data()};
  std::vector<int32_t> ids = {3, 10};
  const Tensor two(ids.data(), DType::kI32, {2}), one(ids.data(), DType::kI32, {1});
  f.device.ops().embed(f32(f.a, {1, 8}), weight, one);
  CHECK_THROWS(kInternal, f.device.ops().embed(f32(f.a, {2, 8}), weight, two));  // id 10 of 10
  CHECK_THROWS(kInternal, f.device.ops().embed(f32(f.a, {1, 9}), weight, one));
  Weight blocked = weight;
  blocked.layout = Layout::kCpu16;
  CHECK_THROWS(kInternal, f.device.ops().embed(f32(f.a, {1, 8}), blocked, one));
  CHECK_THROWS(kInternal, f.device.ops().gather_rows(f32(f.a, {2, 8}), f32(f.b, {4, 9}), two));
  CHECK_THROWS(kInternal, f.device.ops().gather_rows(f32(f.a, {3, 8}), f32(f.b, {4, 8}), two));
  CHECK_THROWS(kInternal, f.device.ops().scatter_rows(f32(f.a, {4, 8}), two, f32(f.b, {1, 8})));
}

TEST(attention_refuses) {
  Fixture f;
  const KvLayer kv{.k = f.a,
                   .v = f.b,
                   .format = KvKind::kF32,
                   .num_blocks = 4,
                   .block_size = 16,
                   .num_kv_heads = 2,
                   .head_dim = 16};
  std::vector<float> q(64 * 64), out(64 * 64);
  const auto prepare = [&](int64_t q_width, int64_t kv_width, const KvLayer& layer, int64_t slot) {
    f.slots[0] = slot;
    f.device.ops().prepare_qkv(f32(q.data(), {1, q_width}), f32(q.data() + 512, {1, kv_width}),
                               f32(q.data() + 1024, {1, kv_width}), {}, layer,
                               Tensor(f.slots.data(), DType::kI64, {1}));
  };
  prepare(64, 32, kv, 63);
  CHECK_THROWS(kInternal, prepare(48, 32, kv, 0));  // three query heads for two
  CHECK_THROWS(kInternal, prepare(64, 48, kv, 0));
  CHECK_THROWS(kInternal, prepare(64, 32, kv, 64));
  CHECK_THROWS(kInternal, prepare(64, 32, kv, -1));
  KvLayer bad = kv;
  bad.block_size = 8;
  CHECK_THROWS(kInternal, prepare(64, 32, bad, 0));
  bad = kv, bad.format = KvKind::kInt8;
  prepare(64, 32, bad, 63);
  bad.head_dim = 8;  // four KV heads of it, eight query heads
  bad.num_kv_heads = 4;
  CHECK_THROWS(kInternal, prepare(64, 32, bad, 0));
  bad = kv, bad.v = nullptr;
  CHECK_THROWS(kInternal, prepare(64, 32, bad, 0));

  std::vector<int32_t> query_start = {0, 3}, table = {0, 1};
  std::vector<int64_t> first_position = {20}, kv_begin = {0};
  AttentionBatch batch{.num_seqs = 1,
                       .query_start = query_start.data(),
                       .first_position = first_position.data(),
                       .kv_begin = kv_begin.data(),
                       .block_table = table.data(),
                       .max_blocks = 2,
                       .max_query_len = 3};
  const auto attend = [&](int64_t tokens) {
    f.device.ops().paged_attention(f32(out.data(), {tokens, 64}), f32(q.data(), {tokens, 64}), kv, batch,
                                   0.25f);
  };
  attend(3);
  CHECK_THROWS(kInternal, attend(4));  // query_start ends at 3
  kv_begin[0] = 8;                     // not on a block
  CHECK_THROWS(kInternal, attend(3));
  kv_begin[0] = 32;  // behind the query
  CHECK_THROWS(kInternal, attend(3));
  kv_begin[0] = 0, first_position[0] = 30;  // needs a third block
  CHECK_THROWS(kInternal, attend(3));
  first_position[0] = 20, batch.max_query_len = 2;
  CHECK_THROWS(kInternal, attend(3));
  batch.max_query_len = 3, batch.block_table = nullptr;
  CHECK_THROWS(kInternal, attend(3));
}

TEST(experts_refuse) {
  Fixture f;
  const RandomWeight router(f.rng, cases::kBF16, 1, 4, 64), int_router(f.rng, cases::kInt8, 1, 4, 64);
  const RandomGateUp gate_up(f.rng, cases::kInt4, 4, 32, 64), three(f.rng, cases::kInt4, 3, 32, 64);
  const RandomWeight down(f.rng, cases::kInt4, 4, 64, 32);
  Workspace ws(f.device, 1 << 16);
  const Tensor h = f32(f.b, {2, 64});
  CHECK_THROWS(kInternal, f.device.ops().route(h, router.view(), 5, ws));
  CHECK_THROWS(kInternal, f.device.ops().route(h, router.view(), 0, ws));
  CHECK_THROWS(kInternal, f.device.ops().route(f32(f.b, {2, 65}), router.view(), 1, ws));
  CHECK_THROWS(kInternal, f.device.ops().route(h, int_router.view(), 1, ws));
  const Routing routing = f.device.ops().route(h, router.view(), 2, ws);
  f.device.ops().experts_gate_up(f32(f.a, {4, 32}), h, gate_up.view(), routing);
  CHECK_THROWS(kInternal, f.device.ops().experts_gate_up(f32(f.a, {2, 32}), h, gate_up.view(), routing));
  CHECK_THROWS(kInternal, f.device.ops().experts_gate_up(f32(f.a, {4, 32}), h, three.view(), routing));
  f.device.ops().experts_down_add(h, f32(f.a, {4, 32}), down.view(), routing);
  CHECK_THROWS(kInternal, f.device.ops().experts_down_add(h, f32(f.a, {4, 48}), down.view(), routing));
  CHECK_THROWS(kInternal,
               f.device.ops().experts_down_add(f32(f.b, {3, 64}), f32(f.a, {4, 32}), down.view(), routing));
}

TEST(a_small_workspace_is_refused) {
  Workspace ws(reference(), 256);
  ws.take(1, 32);
  CHECK_THROWS(kInternal, ws.take(1, 64));
}

}  // namespace llama4rt::test
