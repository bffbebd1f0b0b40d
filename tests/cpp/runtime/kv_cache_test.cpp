// How a byte budget becomes blocks, and what is refused.
#include "runtime/runner/kv_cache.h"

#include <string>

#include "model/tiny_engine.h"
#include "test.h"

namespace llama4rt {
namespace {

// Scout's geometry: 12 global layers, 36 of chunk 8192, 4096 bytes per token and layer in bf16.
ModelConfig scout() {
  ModelConfig c;
  c.num_hidden_layers = 48;
  c.num_key_value_heads = 8;
  c.head_dim = 128;
  c.attention_chunk_size = 8192;
  c.max_position_embeddings = 10485760;
  for (int l = 0; l < 48; ++l) c.chunked_layers.push_back(l % 4 != 3);
  return c;
}

KvCacheOptions budget(int64_t bytes, int64_t max_model_len = 0, int64_t seqs = 16) {
  KvCacheOptions o;
  o.budget_bytes = bytes;
  o.max_model_len = max_model_len;
  o.max_num_seqs = seqs;
  return o;
}

// 16 tokens of 8 heads, keys and values: of 128 bytes and a scale where bf16 has 256 bytes.
TEST(int8_blocks_take_half_and_a_scale) {
  KvCacheOptions options = budget(int64_t(1) << 30);
  options.global_format = options.local_format = KvKind::kInt8;
  CHECK_EQ(kv_cache_shape(scout(), options).global_block_bytes, 16 * 8 * 2 * (128 + 4) * 12);
}

TEST(plan_splits_evenly_until_the_local_group_has_all_it_can_use) {
  const int64_t gib = int64_t(1) << 30;
  const KvCachePlan small = plan_kv_cache(scout(), budget(gib));
  CHECK_EQ(small.global_block_bytes, 16 * 4096 * 12);
  CHECK_EQ(small.local_block_bytes, 16 * 4096 * 36);
  CHECK_EQ(small.num_local_blocks, int32_t(gib / (16 * 4096 * 48)));
  CHECK(small.num_global_blocks - small.num_local_blocks <= 3);
  CHECK_EQ(small.max_model_len, small.num_local_blocks * 16);  // less than a chunk fits

  const KvCachePlan large = plan_kv_cache(scout(), budget(256 * gib, 0, 4));
  CHECK_EQ(large.num_local_blocks, 4 * (512 + 1));
  CHECK_EQ(large.max_model_len, large.num_global_blocks * 16);
  CHECK(large.bytes() <= 256 * gib && large.bytes() > 255 * gib);
}

TEST(plan_shrinks_the_local_group_for_a_long_sequence_that_was_asked_for) {
  // 128k tokens: 6 GiB global and one chunk, 1.125 GiB; an even split would give the global group 2 GiB.
  const int64_t bytes = int64_t(131072) * 4096 * 12 + int64_t(8192) * 4096 * 36;
  const KvCachePlan plan = plan_kv_cache(scout(), budget(bytes, 131072));
  CHECK_EQ(plan.num_local_blocks, 512);
  CHECK_EQ(plan.num_global_blocks, 8192);
  CHECK_EQ(plan.max_model_len, 131072);
  CHECK_THROWS(kConfig, plan_kv_cache(scout(), budget(bytes - 1, 131072)));
  try {
    plan_kv_cache(scout(), budget(bytes - 1, 131072));
  } catch (const Error& e) {
    CHECK(std::string(e.what()).find(std::to_string(bytes)) != std::string::npos);
  }
}

TEST(plan_of_models_with_one_group) {
  ModelConfig global = scout();
  global.chunked_layers.assign(48, false);
  global.attention_chunk_size = 0;
  const KvCachePlan g = plan_kv_cache(global, budget(int64_t(1) << 30));
  CHECK_EQ(g.num_local_blocks, 0);
  CHECK_EQ(g.attention_chunk, 0);
  CHECK_EQ(g.max_model_len, g.num_global_blocks * 16);
  ModelConfig local = scout();
  local.chunked_layers.assign(48, true);
  const KvCachePlan l = plan_kv_cache(local, budget(int64_t(4) << 30, 0, 1));
  CHECK_EQ(l.num_global_blocks, 0);
  CHECK_EQ(l.num_local_blocks, 513);
  CHECK_EQ(l.max_model_len, 10485760);  // one chunk is all it ever keeps
}

TEST(plan_refuses_impossible_options) {
  const int64_t gib = int64_t(1) << 30;
  CHECK_THROWS(kConfig, plan_kv_cache(scout(), budget(0)));
  CHECK_THROWS(kConfig, plan_kv_cache(scout(), budget(16 * 4096 * 48 - 1)));
  CHECK_THROWS(kConfig, plan_kv_cache(scout(), budget(gib, 10485761)));
  for (int size : {0, 8, 24, 48, 2048}) {
    KvCacheOptions o = budget(gib);
    o.block_size = size;
    CHECK_THROWS(kConfig, plan_kv_cache(scout(), o));
  }
  ModelConfig odd = scout();
  odd.attention_chunk_size = 40;
  CHECK_THROWS(kConfig, plan_kv_cache(odd, budget(gib)));
}

}  // namespace
}  // namespace llama4rt
