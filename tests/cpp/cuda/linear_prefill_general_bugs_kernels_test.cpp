// Every planted bug of planted_bugs/linear_prefill_general.cmake must be caught on one small case.
#include <bit>

#include "cuda/kernels/linear_prefill.cuh"
#include "cuda/kernels/rows_launch.h"
#include "cuda/launch.h"
#include "cuda/many_rows_teeth.h"
#include "planted_bugs/linear_prefill_general_bugs.h"

namespace llama4rt::test {
namespace {

// Two splits of K whose second ends inside a step; 136 rows of w (two tiles), then gates and ups.
template <class Config, class Args>
bool is_right(void (*kernel)(Args, const cuda::TensorMap)) {
  static const cases::WeightSpec spec{
      .kind = WeightKind::kInt4, .group_size = 64, .zeros = true, .scales = DType::kF16, .offsets = true};
  static ExpertRows plain(spec, {5, 0, 9}, 136, 1090, false), pairs(spec, {5}, 20, 200, true);
  for (ExpertRows* const product : {&pairs, &plain}) {
    const bool right =
        product->is_right([&](cuda::Stream& stream, const cuda::RowsProduct& p, const Weight& w) {
          const Args args = std::bit_cast<Args>(cuda::rows_args(p, w));  // the copy has a type of its own
          const cuda::TensorMap x_map =
              cuda::make_tensor_map_16bit(p.x, p.rows, args.x_stride, args.x_stride * 2, Config::kTokens,
                                          cuda::kStepColumns, cuda::Swizzle::k128B);
          cuda::launch("linear_prefill", kernel,
                       {.grid_x = 2, .threads = Config::kThreads, .dynamic_shared = Config::kSharedBytes},
                       stream, args, x_map);
        });
    if (!right) return false;
  }
  return true;
}

}  // namespace

TEST(every_bug_is_caught) {
  using RealConfig = cuda::LinearPrefillConfig<cuda::GeneralInt4<64, true>>;
  CHECK_EQ(caught([&] { return is_right<RealConfig>(cuda::linear_prefill_kernel<RealConfig>); }), "");
#define BUG(name)                                                                      \
  expect_caught(#name, [&] {                                                           \
    using Config = bugs::name::LinearPrefillConfig<bugs::name::GeneralInt4<64, true>>; \
    return is_right<Config>(bugs::name::linear_prefill_kernel<Config>);                \
  });
  LLAMA4RT_BUGS_OF_LINEAR_PREFILL_GENERAL(BUG)
#undef BUG
}

}  // namespace llama4rt::test
