// Every barrier, wait, fence and shuffle of the attention kernels removed or broken, one at a time (teeth.h).
#include "cuda/attention_harness.h"
#include "cuda/teeth.h"

namespace llama4rt::test {
namespace {

void break_every_place(const char* kernel, const cases::AttentionCase& c, size_t fewest_places) {
  Rng rng(36);
  AttentionWorld world(rng, c);
  const AttentionWorld::Expected expected = world.expected(c.kv_format != KvKind::kF32);
  check_teeth(
      kernel, [&] { return worst_error(world.attend(0, c.num_tokens()), expected) < 0x1p-7; }, fewest_places);
}

}  // namespace

TEST(every_break_of_decode_is_caught) {
  break_every_place("attention_decode",
                    {.num_kv_heads = 1,
                     .group = 5,
                     .head_dim = 32,
                     .block_size = 48,
                     .kv_format = KvKind::kBF16,
                     // Five splits, whose blocks meet, and one alone.
                     .sequences = {{.first_position = 1100}, {.kv_begin = 48, .first_position = 72}}},
                    11);
}

TEST(every_break_of_prefill_is_caught) {
  break_every_place("attention_prefill",
                    {.num_kv_heads = 1,
                     .group = 3,
                     .head_dim = 32,
                     .kv_format = KvKind::kBF16,
                     .sequences = {{.first_position = 270, .length = 13}}},
                    4);
}

TEST(every_break_of_hopper_is_caught) {
  break_every_place("attention_hopper",
                    {.num_kv_heads = 1,
                     .group = 5,
                     .head_dim = 64,
                     .kv_format = KvKind::kBF16,
                     .sequences = {{.first_position = 300, .length = 18}}},
                    8);
}

TEST(every_break_of_plain_is_caught) {
  break_every_place("attention_plain",
                    {.num_kv_heads = 1,
                     .group = 2,
                     .head_dim = 34,
                     .kv_format = KvKind::kF32,
                     .sequences = {{.first_position = 70, .length = 2}}},
                    4);
}

}  // namespace llama4rt::test
