// Every barrier, fence and shuffle of the router's kernels removed, one at a time (teeth.h).
#include "cuda/cuda_device.h"
#include "cuda/device_rows.h"
#include "cuda/teeth.h"

namespace llama4rt::test {
namespace {

// Columns of very uneven size, and 40 experts: three blocks of them meet. 30 experts per token make few
// tokens many picks.
void check(int64_t tokens, int64_t hidden, int64_t top_k, size_t fewest_places) {
  Rng rng(81);
  cuda::Stream stream;
  const int64_t experts = 40;
  const RandomWeight plain(rng, cases::kBF16, 1, experts, hidden);
  const DeviceWeight router(stream, plain.view());
  const Matrix h = uneven(rng, tokens, hidden);
  std::vector<int32_t> ids;
  std::vector<float> scores;
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<std::pair<double, int32_t>> logits;
    for (int64_t e = 0; e < experts; ++e) {
      double sum = 0;
      for (int64_t k = 0; k < hidden; ++k)
        sum += double(h.row(t)[k]) * double(weight_value(plain.view(), e, k));
      logits.emplace_back(-sum, int32_t(e));
    }
    std::sort(logits.begin(), logits.end());
    for (int64_t i = 0; i < top_k; ++i) {
      ids.push_back(logits[size_t(i)].second);
      scores.push_back(float(1.0 / (1.0 + std::exp(logits[size_t(i)].first))));
    }
  }
  std::vector<int32_t> sorted;
  for (int32_t e = 0; e < experts; ++e)
    for (size_t pick = 0; pick < ids.size(); ++pick)
      if (ids[pick] == e) sorted.push_back(int32_t(pick));
  check_teeth(
      "route",
      [&] {
        CudaDevice device(0);  // new scratch, never written
        Workspace ws(device, 1 << 20);
        const DeviceRows dh(stream, h, true);
        const Routing r = device.ops().route(dh.view(), router.view(), int(top_k), ws);
        std::vector<int32_t> found_ids(ids.size()), found_sorted(ids.size());
        std::vector<float> found_scores(ids.size());
        device.copy_to_host(found_ids.data(), r.expert_ids.data, ids.size() * 4);
        device.copy_to_host(found_sorted.data(), r.sorted_picks.data, ids.size() * 4);
        device.copy_to_host(found_scores.data(), r.scores.data, ids.size() * 4);
        for (size_t i = 0; i < ids.size(); ++i)
          if (!(std::abs(found_scores[i] - scores[i]) <= 1e-5f)) return false;
        return found_ids == ids && found_sorted == sorted;
      },
      fewest_places);
}

}  // namespace

TEST(every_break_of_the_fused_kernel_is_caught) { check(9, 340, 2, 14); }
TEST(every_break_of_the_three_kernels_is_caught) { check(18, 20, 30, 14); }

}  // namespace llama4rt::test
