// Every planted bug of planted_bugs/linear_medium_general.cmake must be caught on one small case.
#include <bit>

#include "cuda/kernels/linear_medium.cuh"
#include "cuda/kernels/rows_launch.h"
#include "cuda/launch.h"
#include "cuda/many_rows_teeth.h"
#include "planted_bugs/linear_medium_general_bugs.h"

namespace llama4rt::test {
namespace {

// 40 rows of w, two splits of K whose second ends inside a step; the splits beside each other, then one after
// the other.
template <class Config, class Args>
bool is_right(void (*kernel)(Args)) {
  static ExpertRows product(
      {.kind = WeightKind::kInt4, .group_size = 128, .zeros = true, .scales = DType::kI8, .offsets = true},
      {5, 0, 20}, 40, 1190, false);
  for (const int splits : {2, 1}) {
    const bool right =
        product.is_right([&](cuda::Stream& stream, const cuda::RowsProduct& p, const Weight& w) {
          const cuda::DeviceBuffer partials(size_t(3 * 2 * Config::kSums * Config::kThreads * 4)),
              tickets(12);
          stream.fill(tickets.data(), 0, 12);
          Args args = std::bit_cast<Args>(cuda::rows_args(p, w));  // the copy has a type of its own
          args.partials = partials.template as<float>();
          args.tickets = tickets.template as<uint32_t>();
          for (int run = 0; run < 2; ++run)
            cuda::launch("linear_medium", kernel,
                         {.grid_y = splits,
                          .grid_z = 3,
                          .threads = Config::kThreads,
                          .dynamic_shared = size_t(Config::shared_bytes(splits == 1))},
                         stream, args);
          stream.synchronize();
        });
    if (!right) return false;
  }
  return true;
}

}  // namespace

TEST(every_bug_is_caught) {
  using RealConfig = cuda::LinearMediumConfig<cuda::GeneralInt4<16, true>>;
  CHECK_EQ(caught([&] { return is_right<RealConfig>(cuda::linear_medium_kernel<RealConfig>); }), "");
#define BUG(name)                                                                     \
  expect_caught(#name, [&] {                                                          \
    using Config = bugs::name::LinearMediumConfig<bugs::name::GeneralInt4<16, true>>; \
    return is_right<Config>(bugs::name::linear_medium_kernel<Config>);                \
  });
  LLAMA4RT_BUGS_OF_LINEAR_MEDIUM_GENERAL(BUG)
#undef BUG
}

}  // namespace llama4rt::test
