// One tiny kernel per function of csrc/cuda/ptx: as nvcc compiled it, under every schedule, it must give what the
// emulator's branch of the same function gives.
#include <bit>
#include <cmath>

#include "cuda/ptx_conformance.h"
#include "ptx/snippet.h"
#include "simt_emulator/host_runtime.h"

namespace llama4rt::test {
namespace {

std::vector<uint32_t> run(const PtxCase& c) {
  cuda::Stream stream;
  return c.run(stream);
}

// As scripts/compare_conformance.py has it.
bool close(const PtxCase& c, const std::vector<uint32_t>& a, const std::vector<uint32_t>& b) {
  if (a.size() != b.size()) return false;
  double largest = 0;
  for (const uint32_t word : a) largest = std::max(largest, std::abs(double(std::bit_cast<float>(word))));
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i]) continue;
    const double x = double(std::bit_cast<float>(a[i])), y = double(std::bit_cast<float>(b[i]));
    const double scale = c.name.find("mma") != std::string::npos ? largest : std::abs(x);
    if (!(c.tolerance > 0 && std::abs(x - y) <= c.tolerance * scale)) return false;
  }
  return true;
}

}  // namespace

TEST(every_ptx_function_does_what_the_emulator_does) {
  for (const PtxCase& c : ptx_cases()) {
    SCOPE(c.name);
    std::vector<uint32_t> emulated;
    {
      const ptx_executor::Suspended emulator;
      emulated = run(c);
    }
    for (const auto& o : many_schedules()) {
      SCOPE(describe(o));
      const WithOptions with(o);
      CHECK(close(c, emulated, run(c)));
    }
  }
}

}  // namespace llama4rt::test
