#include <algorithm>

#include "base/checked_math.h"
#include "cuda/kernels/linear_prefill.cuh"
#include "cuda/kernels/linear_rows.h"
#include "cuda/kernels/rows_launch.h"
#include "cuda/launch.h"

namespace llama4rt::cuda {
namespace {

using AnyConfig = LinearPrefillConfig<BF16Weights>;

struct Start {
  Stream& stream;
  const RowsArgs& args;
  const TensorMap& x_map;
  int blocks;

  template <class Weights>
  void operator()() {
    using Config = LinearPrefillConfig<Weights>;
    launch("linear_prefill", linear_prefill_kernel<Config>,
           {.grid_x = blocks, .threads = Config::kThreads, .dynamic_shared = Config::kSharedBytes}, stream,
           args, x_map);
  }
};

}  // namespace

bool LinearPrefill::supports(const Weight& w, const DeviceInfo& device) {
  return device.major == 9 && device.shared_per_block >= size_t(AnyConfig::kSharedBytes) && has_kernel(w);
}

void LinearPrefill::run(Stream& stream, const RowsProduct& product, const Weight& w, int multiprocessors) {
  const RowsArgs args = rows_args(product, w);
  const TensorMap x_map = make_tensor_map_16bit(product.x, product.rows, args.x_stride, args.x_stride * 2,
                                                AnyConfig::kTokens, kStepColumns, Swizzle::k128B);
  const int64_t tiles = ceil_div(w.n, int64_t(AnyConfig::kRows)) *
                        most_row_tiles(product.rows, w.num_experts, AnyConfig::kTokens);
  Start start{stream, args, x_map, int(std::min<int64_t>(tiles, multiprocessors))};
  with_weights</*kZerosAtRunTime=*/true, Units<Exactly16, Exactly32, Any64>, Units<Any32>>(w, start);
}

}  // namespace llama4rt::cuda
