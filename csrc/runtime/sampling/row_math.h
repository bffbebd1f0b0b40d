// Passes over one row of logits (V is 202,048 in the released models): maximum, exponentials, the best k.
// Written as plain loops over fixed lanes that any compiler vectorises, with an exponential of its own, so
// that a seed gives the same token on every machine.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace llama4rt {

// e^x for x <= 0, to about 1e-7 relative; exactly 0 below -87, exactly 1 at 0. Not for NaN.
float exp_nonpositive(float x);

// A row seen once: its block maxima make the later questions cheap.
class RowView {
 public:
  // row: [size], size > 0; must outlive the view and may change only before look().
  void look(const float* row, int64_t size);

  bool finite() const { return finite_; }  // no NaN and no infinity of either sign
  float max() const { return max_; }
  int32_t argmax() const;  // the lowest id among equals
  // Among tokens whose bit is set (bit i % 32 of word i / 32); -1 when none of those is above -inf.
  int32_t argmax(std::span<const uint32_t> allowed) const;
  // The k largest as (id, value), best first, equals by id; all of them when k >= size.
  std::vector<std::pair<int32_t, float>> top(int64_t k) const;
  // log of the sum of e^x over the row.
  double log_sum_exp() const;
  // The same, and the mean of row[i] - other[i] under the row's own distribution.   other: [size]
  double log_sum_exp(const float* other, double& mean_difference) const;

 private:
  const float* row_ = nullptr;
  int64_t size_ = 0;
  std::vector<float> block_max_;  // [ceil(size / kRowBlock)]
  float max_ = 0;
  bool finite_ = false;
};

inline constexpr int64_t kRowBlock = 256;

// The order of tokens everywhere: larger value first, then lower id.
bool better_token(const std::pair<int32_t, float>& a, const std::pair<int32_t, float>& b);

// weights[i] = e^((row[i] - max) / temperature) on the grid of ops/sampling.h, or 0 where that is below
// `smallest`; block_sums[b] = sum of block b. Returns the total. All these sums are exact.
double softmax_weights(std::span<float> weights, std::vector<double>& block_sums, const float* row, float max,
                       float temperature, float smallest);

// Sums the blocks anew. Returns the total.
double sum_blocks(std::span<const float> weights, std::vector<double>& block_sums);

// Zeroes the weights of all tokens worse than `last` and sums the blocks anew. Returns the total.
double keep_down_to(std::span<float> weights, std::vector<double>& block_sums, const float* row,
                    std::pair<int32_t, float> last);

}  // namespace llama4rt
