#include <algorithm>

#include "base/checked_math.h"
#include "cuda/kernels/linear.h"
#include "cuda/kernels/linear_decode.cuh"
#include "cuda/kernels/linear_decode.h"
#include "cuda/launch.h"
#include "format/layout.h"

namespace llama4rt::cuda {
namespace {

static_assert(kTileBytes == cuda_tile::kTileBytes);
static_assert(Int4Weights<128, false>::kTileColumns == cuda_tile::tile_columns(WeightKind::kInt4));
static_assert(Int8Weights<128>::kTileColumns == cuda_tile::tile_columns(WeightKind::kInt8));
static_assert(BF16Weights::kTileColumns == cuda_tile::tile_columns(WeightKind::kBF16));
static_assert(DecodeConfig<BF16Weights, 1>::kRows == kDecodeRows);

// With so many blocks of rows a GPU of 132 multiprocessors is full without splitting K.
constexpr int64_t kEnoughBlocks = 1024;
// Tokens and slots up to which partial sums of every split are kept.
constexpr int64_t kMostSplitPlaces = 256;
// Tokens of one launch with a single matrix.
constexpr int64_t kTokensOfLaunch = 128;

int64_t row_groups(const Weight& w) { return ceil_div(w.n, int64_t(kDecodeRows)); }
int64_t num_splits(const Weight& w) { return ceil_div(w.k, int64_t(kSplitColumns)); }

// The choice of template arguments, one by one.
struct Call {
  Stream& stream;
  const DecodeArgs& args;
  LaunchShape shape;
  bool many_tokens;  // of a job
  int64_t tokens;

  template <class Config>
  void start() {
    const int rows_of_x = int(std::min<int64_t>(tokens, Config::kTokens));
    shape.threads = Config::kThreads;
    shape.dynamic_shared = size_t(Config::shared_bytes(rows_of_x, args.experts));
    launch("linear_decode", linear_decode_kernel<Config>, shape, stream, args, rows_of_x);
  }
  template <class Weights>
  void choose_tokens() {
    if (many_tokens) return start<DecodeConfig<Weights, 2>>();
    start<DecodeConfig<Weights, 1>>();
  }
  template <int kGroup>
  void choose_kind(const Weight& w) {
    if (w.kind == WeightKind::kInt8) return choose_tokens<Int8Weights<kGroup>>();
    if (w.zeros) return choose_tokens<Int4Weights<kGroup, true>>();
    choose_tokens<Int4Weights<kGroup, false>>();
  }
  void choose(const Weight& w) {
    if (w.kind == WeightKind::kBF16) return choose_tokens<BF16Weights>();
    if (w.group_size == 32) return choose_kind<32>(w);
    if (w.group_size == 64) return choose_kind<64>(w);
    choose_kind<128>(w);
  }
};

// Jobs of 16 tokens multiply more; jobs of 8 may read an expert's weights twice (from the second cache).
bool jobs_of_16(const DecodeArgs& args, int64_t tokens) {
  if (tokens <= 8) return false;
  return args.slots == 0 || args.slots >= 4 * int64_t(args.experts);
}

}  // namespace

bool decode_supports(const Weight& w) {
  if (w.layout != Layout::kCudaTile) return false;
  if (w.kind == WeightKind::kInt8 && w.zeros) return false;  // the format has none
  return w.n <= int64_t(1) << 30 && num_splits(w) <= 65535;
}

DecodeMatrices decode_matrices(const Weight& w) {
  return {.tiles = static_cast<const unsigned char*>(w.data),
          .scales = static_cast<const unsigned char*>(w.scales),
          .zeros = w.zeros};
}

int decode_parts(const Weight& w, int64_t places) {
  return places > kMostSplitPlaces || row_groups(w) >= kEnoughBlocks ? 1 : int(num_splits(w));
}
size_t decode_scratch_bytes(const Weight& w, int64_t places) {
  return size_t(row_groups(w) * decode_parts(w, places) * places * kDecodeRows * 4);
}
size_t decode_ticket_bytes(const Weight& w) { return size_t(row_groups(w) * 4); }

void run_decode(Stream& stream, DecodeArgs args, const Weight& w, int64_t tokens) {
  args.n = int(w.n);
  args.k = int(w.k);
  args.fp32_scales = w.scale_dtype == DType::kF32;
  Call call{.stream = stream,
            .args = args,
            .shape = {.grid_x = int(row_groups(w)), .grid_y = decode_parts(w, args.tokens + args.slots)},
            .many_tokens = jobs_of_16(args, tokens),
            .tokens = tokens};
  call.choose(w);
}

bool LinearDecode::supports(const Weight& w) { return decode_supports(w) && w.num_experts == 1; }
size_t LinearDecode::scratch_bytes(const Weight& w, int64_t tokens) {
  return decode_scratch_bytes(w, std::min(tokens, kTokensOfLaunch));
}
size_t LinearDecode::ticket_bytes(const Weight& w) { return decode_ticket_bytes(w); }

void LinearDecode::run(Stream& stream, Tensor out, Tensor x, const Weight& w, Finish finish, void* scratch,
                       uint32_t* tickets) {
  for (int64_t first = 0; first < x.size(0); first += kTokensOfLaunch) {
    const int64_t tokens = std::min(x.size(0) - first, kTokensOfLaunch);
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
