// Every planted bug of attention_prefill must be caught on one small batch.
#include "cuda/attention_bugs.h"
#include "cuda/kernels/attention_prefill.cuh"
#include "planted_bugs/attention_prefill_bugs.h"

namespace llama4rt::test {

TEST(every_bug_is_caught) {
  AttentionRun run(small_batch(17));
#define RUN(from)                                                                           \
  [&] {                                                                                     \
    using Config = from::AttentionPrefillConfig<from::HeadConfig<cuda::KvBF16, 64, false>>; \
    return run.prefill_is_right<Config>(from::attention_prefill_kernel<Config>);            \
  }
  CHECK_EQ(caught(RUN(cuda)), "");
#define BUG(name) expect_caught(#name, RUN(bugs::name));
  LLAMA4RT_BUGS_OF_ATTENTION_PREFILL(BUG)
#undef BUG
#undef RUN
}

}  // namespace llama4rt::test
