// Tables where no processor has them, as twins that one with AVX-512 VNNI runs: they give the bits of the scalar table.
//   avx_vnni: its source, built with the AVX-512 encoding of the same instructions; only the encoding stays unproven
//   amx: its source over tiles that are emulated; only the instructions themselves stay unproven
#include <algorithm>

#include "cpu/cpu_device.h"
#include "cpu/dispatch.h"
#include "ops/conformance.h"

namespace llama4rt::cpu {
namespace avx_vnni_twin {
const Kernels& kernels();
}
namespace amx_twin {
const Kernels& kernels();
}
}  // namespace llama4rt::cpu

namespace llama4rt::test {
namespace {

bool can_run() {
  const std::vector<std::string> isas = cpu::supported_isas();
  return std::find(isas.begin(), isas.end(), "avx512_vnni") != isas.end();
}

void check_twin(Rng& rng, const cpu::Kernels& kernels, Activations activations) {
  CpuDevice twin(kernels, {.num_threads = 2, .activations = activations});
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
    for (int64_t tokens = 1; tokens <= cases::kMaxTileTokens; tokens += 11)  // remainders of tiles of rows
      check({.tokens = tokens, .n = 40, .k = 168}, spec);
    check({.tokens = 37, .n = 72, .k = 1280}, spec);  // several panels of tiles
  }
}

}  // namespace

TEST(avx_vnni_gives_the_bits_of_the_scalar_table) {
  if (!can_run()) return skip("this machine has no AVX-512 VNNI");
  SEEDED(rng);
  for (const Activations activations : {Activations::kInt8, Activations::kInt16})
    check_twin(rng, cpu::avx_vnni_twin::kernels(), activations);
}

// int8 activations run on VNNI there.
TEST(amx_gives_the_bits_of_the_scalar_table) {
  if (!can_run()) return skip("this machine has no AVX-512 VNNI");
  SEEDED(rng);
  check_twin(rng, cpu::amx_twin::kernels(), Activations::kInt16);
}

}  // namespace llama4rt::test
