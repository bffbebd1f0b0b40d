#include <algorithm>

#include "base/checked_math.h"
#include "cuda/kernels/linear_medium.cuh"
#include "cuda/kernels/linear_rows.h"
#include "cuda/kernels/rows_launch.h"
#include "cuda/launch.h"

namespace llama4rt::cuda {
namespace {

using AnyConfig = LinearMediumConfig<BF16Weights>;

// Waves of blocks from which on splits of K need not run beside each other.
constexpr int64_t kEnoughWaves = 2;

int64_t num_splits(const Weight& w) { return ceil_div(w.k, int64_t(kSplitColumns)); }
int64_t row_tiles(const Weight& w) { return ceil_div(w.n, int64_t(AnyConfig::kRows)); }
int64_t places(const Weight& w, int64_t rows) {
  return row_tiles(w) * most_row_tiles(rows, w.num_experts, AnyConfig::kTokens);
}
// 1 when they run one after the other.
int64_t splits_beside(const Weight& w, int64_t rows, int multiprocessors) {
  return places(w, rows) >= kEnoughWaves * multiprocessors ? 1 : num_splits(w);
}

struct Start {
  Stream& stream;
  const RowsArgs& args;
  LaunchShape shape;

  template <class Weights>
  void with() {
    using Config = LinearMediumConfig<Weights>;
    shape.threads = Config::kThreads;
    shape.dynamic_shared =
        size_t(Config::shared_bytes(Weights::kScaled && shape.grid_y == 1 && args.k > kSplitColumns));
    launch("linear_medium", linear_medium_kernel<Config>, shape, stream, args);
  }
};

}  // namespace

bool LinearMedium::supports(const Weight& w) { return rows_supports(w) && num_splits(w) <= 65535; }

size_t LinearMedium::scratch_bytes(const Weight& w, int64_t rows, int multiprocessors) {
  const int64_t splits = splits_beside(w, rows, multiprocessors);
  return splits == 1 ? 0 : size_t(places(w, rows) * splits * AnyConfig::kSums * AnyConfig::kThreads * 4);
}
size_t LinearMedium::ticket_bytes(const Weight& w, int64_t rows, int multiprocessors) {
  return splits_beside(w, rows, multiprocessors) == 1 ? 0 : size_t(places(w, rows) * 4);
}

void LinearMedium::run(Stream& stream, const RowsProduct& product, const Weight& w, int multiprocessors,
                       void* scratch, uint32_t* tickets) {
  RowsArgs args = rows_args(product, w);
  args.partials = static_cast<float*>(scratch);
  args.tickets = tickets;
  Start start{stream,
              args,
              {.grid_x = int(row_tiles(w)),
               .grid_y = int(splits_beside(w, product.rows, multiprocessors)),
               .grid_z = int(most_row_tiles(product.rows, w.num_experts, AnyConfig::kTokens))}};
  choose_weights(w, start);
}

}  // namespace llama4rt::cuda
