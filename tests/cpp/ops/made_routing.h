// Routings that a test decides, instead of a router.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "ops/cases.h"
#include "ops/op_types.h"
#include "ops/random_weights.h"

namespace llama4rt::test {

// A Routing with given choices; the sorted part follows by definition.
class MadeRouting {
 public:
  MadeRouting(std::vector<int32_t> ids, std::vector<float> scores, int64_t num_experts, int64_t top_k)
      : ids_(std::move(ids)), scores_(std::move(scores)), top_k_(top_k) {
    for (int64_t e = 0; e < num_experts; ++e) {
      offsets_.push_back(int32_t(sorted_.size()));
      for (size_t pick = 0; pick < ids_.size(); ++pick)
        if (ids_[pick] == e) sorted_.push_back(int32_t(pick));
    }
    offsets_.push_back(int32_t(sorted_.size()));
  }
  Routing view() {
    const int64_t tokens = int64_t(ids_.size()) / top_k_;
    return {.expert_ids = Tensor(ids_.data(), DType::kI32, {tokens, top_k_}),
            .scores = Tensor(scores_.data(), DType::kF32, {tokens, top_k_}),
            .sorted_picks = Tensor(sorted_.data(), DType::kI32, {tokens * top_k_}),
            .offsets = Tensor(offsets_.data(), DType::kI32, {int64_t(offsets_.size())})};
  }
  // The same decisions for tokens [first, first + count) only.
  MadeRouting part(int64_t first, int64_t count) const {
    const auto cut = [&](const auto& all) {
      return std::vector(all.begin() + first * top_k_, all.begin() + (first + count) * top_k_);
    };
    return MadeRouting(cut(ids_), cut(scores_), int64_t(offsets_.size()) - 1, top_k_);
  }
  int32_t expert(int64_t pick) const { return ids_[size_t(pick)]; }
  float score(int64_t pick) const { return scores_[size_t(pick)]; }

 private:
  std::vector<int32_t> ids_;
  std::vector<float> scores_;
  int64_t top_k_;
  std::vector<int32_t> sorted_, offsets_;
};

inline MadeRouting random_routing(Rng& rng, const cases::ExpertsCase& c) {
  std::vector<int32_t> ids;
  std::vector<float> scores;
  const int64_t first = rng.below(c.experts);
  const int64_t used = c.pattern == cases::RoutingPattern::kAllToOne     ? 1
                       : c.pattern == cases::RoutingPattern::kFewExperts ? std::min<int64_t>(3, c.experts)
                                                                         : c.experts;
  for (int64_t t = 0; t < c.tokens; ++t) {
    const int64_t start = rng.below(used);
    for (int64_t i = 0; i < c.top_k; ++i) {  // distinct experts, as the router chooses them
      ids.push_back(int32_t((first + (start + i) % std::max(used, c.top_k)) % c.experts));
      scores.push_back(rng.uniform(0.02f, 1.0f));
    }
  }
  return MadeRouting(std::move(ids), std::move(scores), c.experts, c.top_k);
}

inline std::string describe(const cases::ExpertsCase& c) {
  return error_text("T ", c.tokens, ", H ", c.hidden, ", F ", c.width, ", E ", c.experts, ", K ", c.top_k);
}

}  // namespace llama4rt::test
