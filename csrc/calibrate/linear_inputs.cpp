#include "calibrate/linear_inputs.h"

#include <algorithm>

#include "calibrate/share.h"

namespace llama4rt::calibrate {
namespace {

constexpr int64_t kRowsAtOnce =
    4096;  // that are copied together; a multiple of what add_gram() sums in one go

}  // namespace

LinearInputs::LinearInputs(Tensor x, std::vector<float> factors, Tensor expert_ids, Tensor scores,
                           int64_t num_experts, int64_t picks_per_row)
    : x_(x),
      factors_(std::move(factors)),
      picks_(size_t(num_experts)),
      picks_per_row_(picks_per_row),
      picks_per_token_(expert_ids.size(1)),
      scores_(scores ? scores.ptr<const float>() : nullptr) {
  const int32_t* const ids = expert_ids.ptr<const int32_t>();
  for (int64_t pick = 0; pick < expert_ids.numel(); ++pick)
    picks_[size_t(ids[pick])].push_back(int32_t(pick));
}

void LinearInputs::copy(float* out, int64_t expert, int64_t first, int64_t count, ThreadPool& pool) const {
  share(pool, count, [&](int, int64_t i) {
    const int64_t pick = picks_.empty() ? first + i : picks_[size_t(expert)][size_t(first + i)];
    float factor = factors_[size_t(pick / picks_per_token_)];
    if (scores_) factor *= scores_[pick];
    const float* const from = x_.row<const float>(pick / picks_per_row_);
    float* const to = out + i * k();
    for (int64_t j = 0; j < k(); ++j) to[j] = factor * from[j];
  });
}

Square LinearInputs::gram(int64_t expert, const cpu::Kernels& kernels, ThreadPool& pool) const {
  Square h(k());
  std::vector<float> block(size_t(std::min(rows(expert), kRowsAtOnce) * k()));
  for (int64_t first = 0; first < rows(expert); first += kRowsAtOnce) {
    const int64_t count = std::min(kRowsAtOnce, rows(expert) - first);
    copy(block.data(), expert, first, count, pool);
    add_gram(h, block.data(), k(), block.data(), k(), count, true, kernels, pool);
  }
  return h;
}

}  // namespace llama4rt::calibrate
