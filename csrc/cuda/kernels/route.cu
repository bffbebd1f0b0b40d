#include <algorithm>

#include "base/checked_math.h"
#include "cuda/kernels/route.cuh"
#include "cuda/kernels/route.h"
#include "cuda/launch.h"

namespace llama4rt::cuda {
namespace {

constexpr int kLogitsThreads = 512;
constexpr int kSortThreads = Route::kSortThreads;
// Tokens: up to so many take a block each, which reads the router more often and takes less time.
constexpr int64_t kAlone = 16;
constexpr int kTokens = 8;  // of a block, when there are more
static_assert(Route::kFusedPicks <= kLogitsThreads && Route::kMaxTopK <= kSortThreads);

// Counts of each warp, and totals.
size_t sort_shared(int threads, int64_t experts) {
  return size_t(threads / kWarpSize + 1) * size_t(experts) * 4;
}

}  // namespace

const char* Route::refusal(const Weight& router, int64_t top_k) {
  if (router.kind != WeightKind::kBF16 || router.layout != Layout::kCudaTile)
    return "router is not bf16 cuda_tile";
  if (top_k > kMaxTopK) return "more than 256 experts per token";
  if (router.n > 2048) return "more than 2048 experts";
  if (router.k > 65536) return "more than 65536 columns";
  return nullptr;
}

void Route::run(Stream& stream, const Routing& routing, Tensor logits, Tensor h, const Weight& router,
                void* scratch, uint32_t* tickets) {
  const int64_t tokens = h.size(0), top_k = routing.expert_ids.size(1);
  RouteArgs args{.h = h.ptr<const float>(),
                 .router = static_cast<const unsigned char*>(router.data),
                 .logits = logits.ptr<float>(),
                 .expert_ids = routing.expert_ids.ptr<int32_t>(),
                 .scores = routing.scores.ptr<float>(),
                 .sorted_picks = routing.sorted_picks.ptr<int32_t>(),
                 .offsets = routing.offsets.ptr<int32_t>(),
                 .counts = static_cast<int32_t*>(scratch),
                 .ticket = tickets,
                 .h_stride = h.stride0,
                 .tokens = int(tokens),
                 .hidden = int(router.k),
                 .experts = int(router.n),
                 .top_k = int(top_k),
                 .fused = tokens * top_k <= kFusedPicks};
  const bool aligned =
      router.k % 16 == 0 && reinterpret_cast<uintptr_t>(h.data) % 8 == 0 && h.stride0 % 2 == 0;
  const int group = tokens <= kAlone || !aligned ? 1 : kTokens;
  const size_t parts = size_t(ceil_div(router.k, int64_t(kRouteSplitColumns)) * group * 16) * 4;
  // One token: all tiles of a warp's split on their way at once. Eight: registers hold sums instead.
  const auto kernel = !aligned     ? route_logits_kernel<kLogitsThreads, 1, kRouteTilesOfSplit, false>
                      : group == 1 ? route_logits_kernel<kLogitsThreads, 1, kRouteTilesOfSplit, true>
                                   : route_logits_kernel<kLogitsThreads, kTokens, 4, true>;
  launch("route_logits", kernel,
         {.grid_x = int(ceil_div(router.n, int64_t(16))),
          .grid_y = int(ceil_div(tokens, int64_t(group))),
          .threads = kLogitsThreads,
          .dynamic_shared = std::max(parts, args.fused ? sort_shared(kLogitsThreads, router.n) : 0)},
         stream, args);
  if (args.fused) return;
  const LaunchShape sort{.grid_x = int(sort_blocks(tokens, top_k)),
                         .threads = kSortThreads,
                         .dynamic_shared = sort_shared(kSortThreads, router.n)};
  launch("route_choose", route_choose_kernel<kSortThreads>, sort, stream, args);
  launch("route_place", route_place_kernel<kSortThreads>, sort, stream, args);
}

}  // namespace llama4rt::cuda
