// Every planted bug of planted_bugs/linear_decode.cmake must be caught on one of two small cases: a shared
// matrix beside routed experts, with splits of K beside each other, and with splits one after the other.
#include "cuda/decode_run.h"
#include "cuda/kernels/linear_decode.cuh"
#include "planted_bugs/linear_decode_bugs.h"

namespace llama4rt::test {

TEST(every_bug_is_caught) {
  DecodeRun run({.kind = WeightKind::kInt4, .group_size = 32, .zeros = true});
  using RealConfig = cuda::DecodeConfig<cuda::Int4Weights<32, true>, 1>;
  CHECK_EQ(caught([&] { return is_right<RealConfig>(run, cuda::linear_decode_kernel<RealConfig>); }), "");
#define BUG(name)                                                                  \
  expect_caught(#name, [&] {                                                       \
    using Config = bugs::name::DecodeConfig<bugs::name::Int4Weights<32, true>, 1>; \
    return is_right<Config>(run, bugs::name::linear_decode_kernel<Config>);        \
  });
  LLAMA4RT_BUGS_OF_LINEAR_DECODE(BUG)
#undef BUG
}

}  // namespace llama4rt::test
