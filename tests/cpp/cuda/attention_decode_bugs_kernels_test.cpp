// Every planted bug of attention_decode must be caught on one small batch.
#include "cuda/attention_bugs.h"
#include "cuda/kernels/attention_decode.cuh"
#include "planted_bugs/attention_decode_bugs.h"

namespace llama4rt::test {

TEST(every_bug_is_caught) {
  AttentionRun run(small_batch(2));
  // Two blocks for three splits: one of them takes a second split after its first.
#define RUN(from)                                                                          \
  [&] {                                                                                    \
    using Config = from::AttentionDecodeConfig<from::HeadConfig<cuda::KvBF16, 64, false>>; \
    return run.decode_is_right<Config>(from::attention_decode_kernel<Config>);             \
  }
  CHECK_EQ(caught(RUN(cuda)), "");
#define BUG(name) expect_caught(#name, RUN(bugs::name));
  LLAMA4RT_BUGS_OF_ATTENTION_DECODE(BUG)
#undef BUG
#undef RUN
}

}  // namespace llama4rt::test
