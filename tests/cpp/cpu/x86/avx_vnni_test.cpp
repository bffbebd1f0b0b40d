// The avx_vnni table where no processor has it: its source, built with the AVX-512 encoding of the same
// instructions, gives the bits of the scalar table. Only the encoding itself stays unproven there.
#include <algorithm>

#include "cpu/cpu_device.h"
#include "cpu/dispatch.h"
#include "ops/conformance.h"

namespace llama4rt::cpu::avx_vnni_twin {
const Kernels& kernels();
}

namespace llama4rt::test {
namespace {

bool can_run() {
  const std::vector<std::string> isas = cpu::supported_isas();
  return std::find(isas.begin(), isas.end(), "avx512_vnni") != isas.end();
}

}  // namespace

TEST(avx_vnni_gives_the_bits_of_the_scalar_table) {
  if (!can_run()) return;
  SEEDED(rng);
  for (const Activations activations : {Activations::kInt8, Activations::kInt16}) {
    CpuDevice twin(cpu::avx_vnni_twin::kernels(), {.num_threads = 2, .activations = activations});
    const auto scalar = cpu_device("scalar", 1, activations);
    const auto check = [&](const cases::LinearCase& c, const cases::WeightSpec& spec) {
      SCOPE("T ", c.tokens, ", N ", c.n, ", K ", c.k, ", ", describe(spec));
      const RandomWeight weight(rng, spec, 1, c.n, c.k);
      Matrix x = random_activations(rng, c.tokens, c.k), found(c.tokens, c.n), expected(c.tokens, c.n);
      twin.ops().linear(found.view(), x.view(), weight.view());
      scalar->ops().linear(expected.view(), x.view(), weight.view());
      CHECK(found.intact());
      CHECK(found == expected);
    };
    for (const cases::WeightSpec& spec : cases::kWeightSpecs) {
      for (const cases::LinearCase& c : cases::kLinearCases) check(c, spec);
      for (int64_t tokens = 1; tokens <= cases::kMaxTileTokens; ++tokens)
        check({.tokens = tokens, .n = 40, .k = 168}, spec);
    }
  }
}

}  // namespace llama4rt::test
