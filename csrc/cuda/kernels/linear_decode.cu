#include <algorithm>

#include "base/checked_math.h"
#include "cuda/kernels/linear.h"
#include "cuda/kernels/linear_decode.cuh"
#include "cuda/kernels/linear_decode.h"
#include "cuda/kernels/with_weights.h"
#include "cuda/launch.h"
#include "weights/layout.h"

namespace llama4rt::cuda {
namespace {

static_assert(kTileBytes == cuda_tile::kTileBytes);
static_assert(Int4Weights<128, false>::kTileColumns == cuda_tile::tile_columns(WeightKind::kInt4));
static_assert(Int8Weights<128>::kTileColumns == cuda_tile::tile_columns(WeightKind::kInt8));
static_assert(BF16Weights::kTileColumns == cuda_tile::tile_columns(WeightKind::kBF16));
static_assert(GeneralFp8<16, true>::kTileColumns == cuda_tile::tile_columns(WeightKind::kFp8));
static_assert(GeneralTable4<16, false>::kTileColumns == cuda_tile::tile_columns(WeightKind::kTable4));
static_assert(DecodeConfig<BF16Weights, 1>::kRows == kDecodeRows);
static_assert(kFactorColumns == kFactorInputs);

// The choice of template arguments, one by one.
struct Call {
  Stream& stream;
  const DecodeArgs& args;
  LaunchShape shape;
  bool many_tokens;  // of a work item
  int64_t tokens;

  template <class Config>
  void start() {
    const int rows_of_x = int(std::min<int64_t>(tokens, Config::kTokens));
    shape.threads = Config::kThreads;
    shape.dynamic_shared = size_t(Config::shared_bytes(rows_of_x, args.experts));
    launch("linear_decode", linear_decode_kernel<Config>, shape, stream, args, rows_of_x);
  }
  template <class Weights>
  void operator()() {
    if (many_tokens) return start<DecodeConfig<Weights, 2>>();
    start<DecodeConfig<Weights, 1>>();
  }
};

// Work items of 16 tokens cost more products, those of 8 may read an expert's weights again (from the second cache).
bool items_of_16(const DecodeArgs& args, int64_t tokens) {
  if (tokens <= 8) return false;
  return args.picks == 0 || args.picks >= 4 * int64_t(args.experts);
}

}  // namespace

DecodeMatrices decode_matrices(const Weight& w) {
  return {.tiles = static_cast<const unsigned char*>(w.data),
          .scales = static_cast<const unsigned char*>(w.scales),
          .zeros = w.zeros,
          .offsets = static_cast<const unsigned char*>(w.offsets),
          .factors = static_cast<const unsigned char*>(w.factors),
          .offset_factors = static_cast<const unsigned char*>(w.offset_factors)};
}

void run_decode(Stream& stream, DecodeArgs args, const Weight& w, int64_t tokens) {
  args.n = int(w.n);
  args.k = int(w.k);
  args.fp32_scales = w.scale_dtype == DType::kF32;
  args.general = general_args(w);
  Call call{.stream = stream,
            .args = args,
            .shape = {.grid_x = int(decode_row_groups(w)),
                      .grid_y = int(decode_parts(w, args.tokens + args.picks))},
            .many_tokens = items_of_16(args, tokens),
            .tokens = tokens};
  with_weights</*kZerosAtRunTime=*/false, Units<Exactly16, Exactly32, Any64>, Units<Any16>>(w, call);
}

void LinearDecode::run(Stream& stream, Tensor out, Tensor x, const Weight& w, Finish finish, void* scratch,
                       uint32_t* tickets) {
  for (int64_t first = 0; first < x.size(0); first += kTokensOfDecodeLaunch) {
    const int64_t tokens = std::min(x.size(0) - first, kTokensOfDecodeLaunch);
    run_decode(stream,
               {.dense = decode_matrices(w),
                .dense_x = x.row<const float>(first),
                .out = out.row<float>(first),
                .tokens = int(tokens),
                .dense_x_stride = x.stride0,
                .out_stride = out.stride0,
                .partials = static_cast<float*>(scratch),
                .tickets = tickets,
                .num_f = int(out.size(1)),
                .finish = finish},
               w, tokens);
  }
}

}  // namespace llama4rt::cuda
