// The emulated PTX functions: the same results under every schedule, and for matrix instructions those of
// plain matrix products written down independently of the emulator.
#include <bit>
#include <cmath>

#include "base/dtype.h"
#include "cuda/ptx_conformance.h"
#include "cuda/simt_test.h"

namespace llama4rt::test {
namespace {

float value_of(const std::vector<uint32_t>& words, size_t index) {  // index counts 16-bit halves
  return to_float(bf16{uint16_t(words[index / 2] >> (index % 2 ? 16 : 0))});
}

std::vector<uint32_t> run_case(const std::string& name) {
  cuda::Stream stream;
  for (const PtxCase& c : ptx_cases())
    if (c.name == name) return c.run(stream);
  throw Error(ErrorKind::kInternal, "no case " + name);
}

}  // namespace

TEST(results_do_not_depend_on_the_schedule) {
  for (const PtxCase& c : ptx_cases()) {
    SCOPE(c.name);
    std::vector<uint32_t> first;
    for (const simt::Options& o : schedules()) {
      SCOPE(describe(o));
      const WithOptions with(o);
      cuda::Stream stream;
      const std::vector<uint32_t> result = c.run(stream);
      if (first.empty()) first = result;
      CHECK(result == first);
    }
  }
}

// K-major operands of 64 columns: element (row, k) is word (row * 64 + k) / 2 of its matrix.
TEST(wgmma_is_a_matrix_product) {
  const std::vector<uint32_t> in = ptx_input(), out = run_case("wgmma_m64n64k16, descriptors");
  for (int row = 0; row < 64; ++row)
    for (int n = 0; n < 64; ++n) {
      const int warp = row / 16, lane = row % 8 * 4 + n % 8 / 2, i = n / 8 * 4 + row % 16 / 8 * 2 + n % 2;
      double sum = i, size = 0;  // what the accumulator began with
      for (int k = 0; k < 64; ++k) {
        const double term = double(value_of(in, size_t(row * 64 + k))) *
                            double(value_of(in, size_t(64 * 64 + n * 64 + k) % (in.size() * 2)));
        sum += term;
        size += std::abs(term);
      }
      const float found = std::bit_cast<float>(out[size_t((warp * 32 + lane) * 32 + i)]);
      CHECK_CLOSE(found, sum, 1e-5 * size);
    }
}

TEST(mma_is_a_matrix_product) {
  const std::vector<uint32_t> in = ptx_input(), out = run_case("mma_m16n8k16");
  const float start[4] = {1.0f, 2.0f, -3.0f, 0.5f};
  for (int row = 0; row < 16; ++row)
    for (int n = 0; n < 8; ++n) {
      const int i = row / 8 * 2 + n % 2;
      double sum = double(start[i]), size = 0;
      for (int k = 0; k < 16; ++k) {
        const int a_lane = row % 8 * 4 + k % 8 / 2, a_register = row / 8 + 2 * (k / 8);
        const int b_lane = n * 4 + k % 8 / 2, b_register = 4 + k / 8;
        const double term = double(value_of(in, size_t((a_lane * 8 + a_register) * 2 + k % 2))) *
                            double(value_of(in, size_t((b_lane * 8 + b_register) * 2 + k % 2)));
        sum += term;
        size += std::abs(term);
      }
      CHECK_CLOSE(std::bit_cast<float>(out[size_t((row % 8 * 4 + n / 2) * 4 + i)]), sum, 1e-5 * size);
    }
}

// Undoing the swizzle gives the box, zeros where it hangs over the edge of the 60 x 100 matrix.
TEST(a_tensor_load_is_a_swizzled_box) {
  const std::vector<uint32_t> in = ptx_input(), out = run_case("tensor_load_2d, 128-byte swizzle");
  for (int row = 0; row < 64; ++row)
    for (int column = 0; column < 64; ++column) {
      const uint32_t byte = uint32_t(row * 128 + column * 2), at = byte ^ ((byte >> 7 & 7u) << 4);
      const bool inside = row + 3 < 60 && column + 80 < 100;
      const float want = inside ? value_of(in, size_t((row + 3) * 104 + column + 80)) : 0.0f;
      CHECK_EQ(value_of(out, at / 2), want);
    }
}

}  // namespace llama4rt::test
