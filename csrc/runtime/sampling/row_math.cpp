#include "runtime/sampling/row_math.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "base/checked_math.h"
#include "ops/sampling.h"

namespace llama4rt {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kSumLanes = 8;

// Sum of one block in an order fixed by position: lanes, then lane by lane.
template <class Number>
double block_sum(const Number* x, int64_t count) {
  double lanes[kSumLanes] = {};
  int64_t i = 0;
  for (; i + kSumLanes <= count; i += kSumLanes)
    for (int64_t j = 0; j < kSumLanes; ++j) lanes[j] += double(x[i + j]);
  for (; i < count; ++i) lanes[i % kSumLanes] += double(x[i]);
  double sum = 0;
  for (double lane : lanes) sum += lane;
  return sum;
}

}  // namespace

bool better_token(const std::pair<int32_t, float>& a, const std::pair<int32_t, float>& b) {
  return a.second != b.second ? a.second > b.second : a.first < b.first;
}

float exp_nonpositive(float x) { return sampling_exp(x); }

void RowView::look(const float* row, int64_t size) {
  row_ = row;
  size_ = size;
  block_max_.resize(size_t(ceil_div(size, kRowBlock)));
  uint32_t bad = 0;
  for (size_t b = 0; b < block_max_.size(); ++b) {
    const float* x = row + int64_t(b) * kRowBlock;
    const int64_t count = std::min(kRowBlock, size - int64_t(b) * kRowBlock);
    float max[kLanes];
    uint32_t not_finite[kLanes] = {};
    std::fill_n(max, kLanes, -std::numeric_limits<float>::infinity());
    const auto visit = [&](int64_t i, int64_t j) {
      max[j] = x[i] > max[j] ? x[i] : max[j];
      not_finite[j] |= uint32_t((std::bit_cast<int32_t>(x[i]) & 0x7fffffff) >= 0x7f800000);
    };
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes)
      for (int64_t j = 0; j < kLanes; ++j) visit(i + j, j);
    for (; i < count; ++i) visit(i, i % kLanes);
    block_max_[b] = *std::max_element(max, max + kLanes);
    for (uint32_t flag : not_finite) bad |= flag;
  }
  max_ = *std::max_element(block_max_.begin(), block_max_.end());
  finite_ = bad == 0;
}

int32_t RowView::argmax() const {
  const auto block = std::find(block_max_.begin(), block_max_.end(), max_) - block_max_.begin();
  const float* begin = row_ + block * kRowBlock;
  return int32_t(std::find(begin, row_ + size_, max_) - row_);
}

int32_t RowView::argmax(std::span<const uint32_t> allowed) const {
  float best = -std::numeric_limits<float>::infinity();
  int32_t at = -1;
  for (size_t b = 0; b < block_max_.size(); ++b) {
    if (!(block_max_[b] > best)) continue;  // nearly all, once a good one is found
    const int64_t begin = int64_t(b) * kRowBlock, end = std::min(begin + kRowBlock, size_);
    for (int64_t i = begin; i < end; ++i) {
      if (!(row_[i] > best) || !(allowed[size_t(i / 32)] >> (i % 32) & 1u)) continue;
      best = row_[i];
      at = int32_t(i);
    }
  }
  return at;
}

std::vector<std::pair<int32_t, float>> RowView::top(int64_t k) const {
  k = std::min(k, size_);
  // The k-th best block maximum is no greater than the k-th best value: whatever is below it can go.
  float threshold = -std::numeric_limits<float>::infinity();
  if (k < int64_t(block_max_.size())) {
    std::vector<float> best = block_max_;
    std::nth_element(best.begin(), best.begin() + (k - 1), best.end(), std::greater<>());
    threshold = best[size_t(k - 1)];
  }
  std::vector<std::pair<int32_t, float>> found;
  for (size_t b = 0; b < block_max_.size(); ++b) {
    if (block_max_[b] < threshold) continue;
    const int64_t end = std::min((int64_t(b) + 1) * kRowBlock, size_);
    for (int64_t i = int64_t(b) * kRowBlock; i < end; ++i)
      if (row_[i] >= threshold) found.emplace_back(int32_t(i), row_[i]);
  }
  if (int64_t(found.size()) > k) {
    std::nth_element(found.begin(), found.begin() + (k - 1), found.end(), better_token);
    found.resize(size_t(k));
  }
  std::sort(found.begin(), found.end(), better_token);
  return found;
}

double RowView::log_sum_exp() const {
  double total = 0;
  float e[kRowBlock];
  for (int64_t begin = 0; begin < size_; begin += kRowBlock) {
    const int64_t count = std::min(kRowBlock, size_ - begin);
    for (int64_t i = 0; i < count; ++i) e[i] = sampling_exp(row_[begin + i] - max_);
    total += block_sum(e, count);
  }
  return double(max_) + std::log(total);
}

double RowView::log_sum_exp(const float* other, double& mean_difference) const {
  double total = 0, differences = 0;
  float e[kRowBlock];
  double weighted[kRowBlock];
  for (int64_t begin = 0; begin < size_; begin += kRowBlock) {
    const int64_t count = std::min(kRowBlock, size_ - begin);
    for (int64_t i = 0; i < count; ++i) e[i] = sampling_exp(row_[begin + i] - max_);
    for (int64_t i = 0; i < count; ++i)
      weighted[i] = double(e[i]) * (double(row_[begin + i]) - double(other[begin + i]));
    total += block_sum(e, count);
    differences += block_sum(weighted, count);
  }
  mean_difference = differences / total;
  return double(max_) + std::log(total);
}

double softmax_weights(std::span<float> weights, std::vector<double>& block_sums, const float* row, float max,
                       float temperature, float smallest) {
  const auto size = int64_t(weights.size());
  block_sums.clear();
  double total = 0;
  for (int64_t begin = 0; begin < size; begin += kRowBlock) {
    const int64_t count = std::min(kRowBlock, size - begin);
    float* w = weights.data() + begin;
    const float* x = row + begin;
    for (int64_t i = 0; i < count; ++i) {
      const float e = sampling_exp((x[i] - max) / temperature);
      w[i] = e < smallest ? 0.f : weight_on_grid(e);
    }
    block_sums.push_back(block_sum(w, count));
    total += block_sums.back();
  }
  return total;
}

double sum_blocks(std::span<const float> weights, std::vector<double>& block_sums) {
  const auto size = int64_t(weights.size());
  block_sums.clear();
  double total = 0;
  for (int64_t begin = 0; begin < size; begin += kRowBlock) {
    block_sums.push_back(block_sum(weights.data() + begin, std::min(kRowBlock, size - begin)));
    total += block_sums.back();
  }
  return total;
}

double keep_down_to(std::span<float> weights, std::vector<double>& block_sums, const float* row,
                    std::pair<int32_t, float> last) {
  const auto size = int64_t(weights.size());
  block_sums.clear();
  double total = 0;
  for (int64_t begin = 0; begin < size; begin += kRowBlock) {
    const int64_t count = std::min(kRowBlock, size - begin);
    float* w = weights.data() + begin;
    const float* x = row + begin;
    // Among equals of the last kept value, ids up to its own stay.
    const int64_t equals_end = std::clamp<int64_t>(last.first + 1 - begin, 0, count);
    for (int64_t i = 0; i < equals_end; ++i) w[i] = x[i] >= last.second ? w[i] : 0.f;
    for (int64_t i = equals_end; i < count; ++i) w[i] = x[i] > last.second ? w[i] : 0.f;
    block_sums.push_back(block_sum(w, count));
    total += block_sums.back();
  }
  return total;
}

}  // namespace llama4rt
