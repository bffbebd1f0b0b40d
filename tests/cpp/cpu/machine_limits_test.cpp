#include "cpu/machine_limits.h"

#include <vector>

#include "cpu/dispatch.h"
#include "ops/random_weights.h"
#include "test.h"

namespace llama4rt::cpu {

TEST(read_sum_reads_every_byte_once) {
  for (const std::string& isa : supported_isas())
    for (int64_t lines : {0, 1, 7, 8, 9, 33}) {
      SCOPE(isa, ", ", lines, " lines");
      const test::AlignedBytes data(lines * 64);
      for (int64_t i = 0; i < lines * 16; ++i) data.as<float>()[i] = float(i % 7);  // sums stay exact
      float expected = 0;
      for (int64_t i = 0; i < lines * 16; ++i) expected += float(i % 7);
      CHECK_EQ(kernels_by_name(isa).read_sum(data.as<void>(), lines * 64), expected);
    }
}

TEST(fma_chains_count_their_flops) {
  for (const std::string& isa : supported_isas()) {
    float sink = 0;
    const int64_t flops = kernels_by_name(isa).fma_chains(10, &sink);
    CHECK(flops > 0 && flops % (10 * 16 * 2) == 0);
    CHECK_EQ(sink, 0.0f);
  }
}

}  // namespace llama4rt::cpu
