// LinearInputs: what a linear, or a stack of experts, is about to multiply with.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "base/tensor.h"
#include "base/thread_pool.h"
#include "calibrate/gram.h"

namespace llama4rt::calibrate {

class LinearInputs {
 public:
  // All rows, of one matrix; row t is token t. factors: [tokens], the roots of how much each counts.
  LinearInputs(Tensor x, std::vector<float> factors) : x_(x), factors_(std::move(factors)) {}
  // Of experts: pick s = t * K + i has row s / picks_per_row of x, times scores[s] if there are scores, and goes to expert
  // expert_ids[t, i].   x: F32 [*, k]; expert_ids: I32 [T, K]; scores: F32 [T, K] or empty
  LinearInputs(Tensor x, std::vector<float> factors, Tensor expert_ids, Tensor scores, int64_t num_experts,
               int64_t picks_per_row);

  int64_t k() const { return x_.size(1); }
  int64_t num_experts() const { return picks_.empty() ? 1 : int64_t(picks_.size()); }
  int64_t rows(int64_t expert) const {
    return picks_.empty() ? x_.size(0) : int64_t(picks_[size_t(expert)].size());
  }
  // out[i, :] = input `first + i` of the expert, times its token's factor.   out: [count, k]
  void copy(float* out, int64_t expert, int64_t first, int64_t count, ThreadPool& pool) const;

  // The sums over the expert's rows of input i times input j.
  Square gram(int64_t expert, const cpu::Kernels& kernels, ThreadPool& pool) const;

 private:
  Tensor x_;
  std::vector<float> factors_;
  std::vector<std::vector<int32_t>> picks_;  // of each expert, ascending; empty: no experts
  int64_t picks_per_row_ = 1, picks_per_token_ = 1;
  const float* scores_ = nullptr;
};

}  // namespace llama4rt::calibrate
