// Every planted bug of planted_bugs/route.cmake must be caught on small cases: one fused, one of three
// kernels, one of equal logits.
#include <algorithm>
#include <numeric>

#include "cuda/device_rows.h"
#include "cuda/kernels/route.cuh"
#include "cuda/launch.h"
#include "cuda/teeth.h"
#include "planted_bugs/route_bugs.h"

namespace llama4rt::test {
namespace {

class RouteRun {
 public:
  RouteRun() {
    for (int64_t t = 0; t < equal_.rows(); ++t) std::fill_n(equal_.row(t), kHidden, 0.0f);
  }

  template <class Args>
  bool is_right(void (*logits)(Args), void (*choose)(Args), void (*place)(Args)) {
    return run(few_, logits, choose, place) && run(many_, logits, choose, place) &&
           run(equal_, logits, choose, place);
  }

 private:
  static constexpr int64_t kHidden = 331, kExperts = 37, kTopK = 15;

  // The kernels' own logits decide what is right after them.
  template <class Args>
  bool run(const Matrix& h, void (*logits)(Args), void (*choose)(Args), void (*place)(Args)) {
    const int64_t tokens = h.rows(), picks = tokens * kTopK;
    const auto poisoned = [&](int64_t size) {
      return DeviceVector<int32_t>(stream_, std::vector<int32_t>(size_t(size), 0x7fbadbad));
    };
    const auto dlogits = poisoned(tokens * kExperts), ids = poisoned(picks), scores = poisoned(picks),
               sorted = poisoned(picks), offsets = poisoned(kExperts + 1);
    const cuda::DeviceBuffer counts(size_t(tokens * kExperts) * 4);
    const DeviceVector<int32_t> ticket(stream_, {0});
    const DeviceRows dh(stream_, h, false);
    const Args args{.h = dh.view().template ptr<const float>(),
                    .router = static_cast<const unsigned char*>(router_.view().data),
                    .logits = static_cast<float*>(dlogits.data()),
                    .expert_ids = static_cast<int32_t*>(ids.data()),
                    .scores = static_cast<float*>(scores.data()),
                    .sorted_picks = static_cast<int32_t*>(sorted.data()),
                    .offsets = static_cast<int32_t*>(offsets.data()),
                    .counts = counts.as<int32_t>(),
                    .ticket = static_cast<uint32_t*>(ticket.data()),
                    .h_stride = dh.view().stride0,
                    .tokens = int(tokens),
                    .hidden = int(kHidden),
                    .experts = int(kExperts),
                    .top_k = int(kTopK),
                    .fused = picks <= 64};
    const int blocks = int((tokens + 3) / 4);  // 64 threads place the picks of 4 tokens
    constexpr size_t kShared = 4096;
    cuda::launch("route_logits", logits,
                 {.grid_x = 3, .grid_y = int((tokens + 1) / 2), .threads = 64, .dynamic_shared = kShared},
                 stream_, args);
    if (!args.fused) {
      const cuda::LaunchShape shape{.grid_x = blocks, .threads = 64, .dynamic_shared = kShared};
      cuda::launch("route_choose", choose, shape, stream_, args);
      cuda::launch("route_place", place, shape, stream_, args);
    }
    return logits_right(h, dlogits.fetch(stream_)) &&
           choice_right(dlogits.fetch(stream_), ids.fetch(stream_), scores.fetch(stream_)) &&
           sort_right(ids.fetch(stream_), sorted.fetch(stream_), offsets.fetch(stream_));
  }

  bool logits_right(const Matrix& h, const std::vector<int32_t>& found) const {
    for (int64_t t = 0; t < h.rows(); ++t)
      for (int64_t e = 0; e < kExperts; ++e) {
        double sum = 0, size = 0;
        for (int64_t k = 0; k < kHidden; ++k) {
          const double term = double(h.row(t)[k]) * double(weight_value(plain_.view(), e, k));
          sum += term;
          size += std::abs(term);
        }
        if (!(std::abs(double(std::bit_cast<float>(found[size_t(t * kExperts + e)])) - sum) <= 1e-5 * size))
          return false;
      }
    return true;
  }
  static bool choice_right(const std::vector<int32_t>& logits, const std::vector<int32_t>& ids,
                           const std::vector<int32_t>& scores) {
    for (size_t t = 0; t < ids.size() / kTopK; ++t) {
      const auto logit = [&](int32_t e) { return std::bit_cast<float>(logits[t * kExperts + size_t(e)]); };
      std::vector<int32_t> order(kExperts);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logit(a) > logit(b); });
      for (size_t i = 0; i < kTopK; ++i) {
        if (ids[t * kTopK + i] != order[i]) return false;
        const double exact = 1.0 / (1.0 + std::exp(-double(logit(order[i]))));
        if (!(std::abs(double(std::bit_cast<float>(scores[t * kTopK + i])) - exact) <= 1e-6 * exact))
          return false;
      }
    }
    return true;
  }
  static bool sort_right(const std::vector<int32_t>& ids, const std::vector<int32_t>& sorted,
                         const std::vector<int32_t>& offsets) {
    std::vector<int32_t> want_sorted, want_offsets;
    for (int32_t e = 0; e < kExperts; ++e) {
      want_offsets.push_back(int32_t(want_sorted.size()));
      for (size_t pick = 0; pick < ids.size(); ++pick)
        if (ids[pick] == e) want_sorted.push_back(int32_t(pick));
    }
    want_offsets.push_back(int32_t(want_sorted.size()));
    return sorted == want_sorted && offsets == want_offsets;
  }

  Rng rng_{91};
  cuda::Stream stream_;
  RandomWeight plain_{rng_, cases::kBF16, 1, kExperts, kHidden};
  DeviceWeight router_{stream_, plain_.view()};
  Matrix few_ = random_activations(rng_, 3, kHidden), many_ = random_activations(rng_, 9, kHidden),
         equal_{2, kHidden};
};

}  // namespace

TEST(every_bug_is_caught) {
  RouteRun run;
#define RUN(space)                                                                          \
  run.is_right(space::route_logits_kernel<64, 2, 4, false>, space::route_choose_kernel<64>, \
               space::route_place_kernel<64>)
  CHECK_EQ(caught([&] { return RUN(cuda); }), "");  // without any bug
#define BUG(name) expect_caught(#name, [&] { return RUN(bugs::name); });
  LLAMA4RT_BUGS_OF_ROUTE(BUG)
#undef BUG
#undef RUN
}

}  // namespace llama4rt::test
