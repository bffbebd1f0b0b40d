#include <algorithm>

#include "base/checked_math.h"
#include "cuda/kernels/linear_medium.cuh"
#include "cuda/kernels/linear_rows.h"
#include "cuda/kernels/rows_launch.h"
#include "cuda/launch.h"

namespace llama4rt::cuda {
namespace {

using AnyConfig = LinearMediumConfig<BF16Weights>;

static_assert(AnyConfig::kRows == LinearMedium::kRows && AnyConfig::kTokens == LinearMedium::kTokens);
static_assert(AnyConfig::kSums * AnyConfig::kThreads == LinearMedium::kRows * LinearMedium::kTokens);

struct Start {
  Stream& stream;
  const RowsArgs& args;
  LaunchShape shape;

  template <class Weights>
  void operator()() {
    using Config = LinearMediumConfig<Weights>;
    shape.threads = Config::kThreads;
    shape.dynamic_shared =
        size_t(Config::shared_bytes(Weights::kScaled && shape.grid_y == 1 && args.k > kSplitColumns));
    launch("linear_medium", linear_medium_kernel<Config>, shape, stream, args);
  }
};

}  // namespace

void LinearMedium::run(Stream& stream, const RowsProduct& product, const Weight& w, int multiprocessors,
                       void* scratch, uint32_t* tickets) {
  RowsArgs args = rows_args(product, w);
  args.partials = static_cast<float*>(scratch);
  args.tickets = tickets;
  Start start{stream,
              args,
              {.grid_x = int(ceil_div(w.n, kRows)),
               .grid_y = int(splits_beside(w, product.rows, multiprocessors)),
               .grid_z = int(most_row_tiles(product.rows, w.num_experts, kTokens))}};
  with_weights</*kZerosAtRunTime=*/true, Units<Any16>, Units<Any16>>(w, start);
}

}  // namespace llama4rt::cuda
