#include "base/checked_math.h"
#include "cuda/kernels/linear.h"
#include "cuda/kernels/linear_int4_decode.cuh"
#include "cuda/launch.h"
#include "format/layout.h"

namespace llama4rt::cuda {
namespace {

constexpr int kMaxTokens = 16;  // of a block
using AnyConfig = LinearInt4Config<128, ScaleBF16, false, 2>;
static_assert(AnyConfig::kTileBytes == cuda_tile::kTileBytes);
static_assert(AnyConfig::kTileColumns == cuda_tile::tile_columns(WeightKind::kInt4));

int64_t row_groups(const Weight& w) { return ceil_div(w.n, int64_t(AnyConfig::kRows)); }
int64_t token_blocks(int64_t tokens) { return ceil_div(tokens, int64_t(kMaxTokens)); }
int64_t num_splits(const Weight& w) { return ceil_div(w.k, int64_t(AnyConfig::kSplitColumns)); }

// The choice of template arguments, one by one, from what the weight is.
struct Call {
  Stream& stream;
  LinearInt4Args args;
  LaunchShape shape;

  template <class Config>
  void start() {
    shape.threads = Config::kThreads;
    shape.dynamic_shared = Config::kSharedBytes;
    launch("linear_int4_decode", linear_int4_decode_kernel<Config>, shape, stream, args);
  }
  template <int kGroup, class Scale, bool kZeros>
  void choose_tokens() {
    if (args.tokens <= 8) return start<LinearInt4Config<kGroup, Scale, kZeros, 1>>();
    start<LinearInt4Config<kGroup, Scale, kZeros, 2>>();
  }
  template <int kGroup, class Scale>
  void choose_zeros() {
    if (args.zeros) return choose_tokens<kGroup, Scale, true>();
    choose_tokens<kGroup, Scale, false>();
  }
  template <int kGroup>
  void choose_scale(DType dtype) {
    if (dtype == DType::kF32) return choose_zeros<kGroup, float>();
    choose_zeros<kGroup, ScaleBF16>();
  }
  void choose_group(int group, DType dtype) {
    if (group == 32) return choose_scale<32>(dtype);
    if (group == 64) return choose_scale<64>(dtype);
    choose_scale<128>(dtype);
  }
};

}  // namespace

bool LinearInt4Decode::supports(const Weight& w) {
  if (w.kind != WeightKind::kInt4 || w.layout != Layout::kCudaTile) return false;
  if (w.num_experts != 1) return false;
  return w.n <= int64_t(1) << 30 && num_splits(w) <= 65535;
}

size_t LinearInt4Decode::partial_bytes(const Weight& w, int64_t tokens) {
  if (num_splits(w) == 1) return 0;
  return size_t(token_blocks(tokens) * num_splits(w) * kMaxTokens * row_groups(w) * AnyConfig::kRows * 4);
}
size_t LinearInt4Decode::ticket_bytes(const Weight& w, int64_t tokens) {
  return size_t(token_blocks(tokens) * row_groups(w) * 4);
}

void LinearInt4Decode::run(Stream& stream, Tensor out, Tensor x, const Weight& w, Finish finish,
                           void* partials, void* tickets) {
  Call call{.stream = stream,
            .args = {.out = out.ptr<float>(),
                     .x = x.ptr<const float>(),
                     .weights = static_cast<const unsigned char*>(w.data),
                     .scales = w.scales,
                     .zeros = w.zeros,
                     .partials = static_cast<float*>(partials),
                     .tickets = static_cast<uint32_t*>(tickets),
                     .out_stride = out.stride0,
                     .x_stride = x.stride0,
                     .tokens = int(x.size(0)),
                     .n = int(w.n),
                     .k = int(w.k),
                     .num_f = int(out.size(1)),
                     .finish = finish},
            .shape = {.grid_x = int(row_groups(w)),
                      .grid_y = int(num_splits(w)),
                      .grid_z = int(token_blocks(x.size(0)))}};
  call.choose_group(w.group_size, w.scale_dtype);
}

}  // namespace llama4rt::cuda
