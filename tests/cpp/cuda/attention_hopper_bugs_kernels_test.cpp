// Every planted bug of attention_hopper must be caught on one small batch.
#include "cuda/attention_bugs.h"
#include "cuda/kernels/attention_hopper.cuh"
#include "planted_bugs/attention_hopper_bugs.h"

namespace llama4rt::test {

TEST(every_bug_is_caught) {
  // 70 rows: one block, both groups. Six tiles, the last of them with 10 keys; the first split ends between.
  AttentionRun run({.num_kv_heads = 1,
                    .group = 5,
                    .head_dim = 64,
                    .block_size = 48,
                    .kv_format = KvKind::kBF16,
                    .sequences = {{.first_position = 316, .length = 14}}});
#define RUN(from)                                                              \
  [&] {                                                                        \
    using Config = from::AttentionHopperConfig<64>;                            \
    return run.hopper_is_right<Config>(from::attention_hopper_kernel<Config>); \
  }
  CHECK_EQ(caught(RUN(cuda)), "");
#define BUG(name) expect_caught(#name, RUN(bugs::name));
  LLAMA4RT_BUGS_OF_ATTENTION_HOPPER(BUG)
#undef BUG
#undef RUN
}

}  // namespace llama4rt::test
