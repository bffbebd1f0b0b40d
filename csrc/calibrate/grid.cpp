#include "calibrate/grid.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/checked_math.h"

namespace llama4rt::calibrate {
namespace {

// Four lanes with a fixed order of addition, as in weights/quantize.cpp: the same grid on every machine.
using Float4 = float __attribute__((vector_size(16)));

Float4 load(const float* p) {
  Float4 v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
Float4 splat(float x) { return Float4{x, x, x, x}; }
Float4 smaller(Float4 a, Float4 b) { return a < b ? a : b; }
Float4 larger(Float4 a, Float4 b) { return a > b ? a : b; }
float sum_of(Float4 v) { return (v[0] + v[2]) + (v[1] + v[3]); }
Float4 nearest(Float4 t) { return (t + 0x1.8p23f) - 0x1.8p23f; }  // ties to even

constexpr float kTiniestScale = 0x1p-120f;  // as in weights/quantize.cpp: its reciprocal is still finite
constexpr int kRefinements = 3;

// Steps of the largest weight, as in weights/quantize.cpp, and coarser and finer ones: where the largest weight meets
// quiet inputs it may be clipped further.
constexpr float kMainDivisors[] = {6.5f, 7.0f, 7.5f, 8.0f, 8.6f, 9.3f, 10.2f, 11.4f, 13.0f};
constexpr float kOtherDivisors[] = {6.8f, 7.5f, 8.0f, 9.0f};
// Of the range between the smallest and the largest weight, for grids with offsets.
constexpr float kRanges[] = {1.0f, 0.95f, 0.9f, 0.85f, 0.8f, 0.72f};

float stored(float x, DType dtype) { return dtype == DType::kBF16 ? to_float(to_bf16(x)) : x; }

class Search {
 public:
  Search(const float* w, const float* importance, int64_t count, const GridSpec& spec)
      : w_(w), importance_(importance), padded_(round_up(count, int64_t(8))), count_(count), spec_(spec) {}

  Grid run() {
    if (spec_.kind == WeightKind::kInt8)
      search_wide();
    else if (spec_.offsets)
      search_with_offsets();
    else
      search_symmetric();
    for (int i = 0; i < kRefinements && best_.scale != 0; ++i)
      if (!refine()) break;
    return best_;
  }

 private:
  void search_symmetric() {
    float up = 0, down = 0;
    for (int64_t i = 0; i < count_; ++i) {
      up = std::max(up, w_[i]);
      down = std::max(down, -w_[i]);
    }
    const float main = up >= down ? -up : down;  // the larger side falls on the longer side of the codes
    for (const float divisor : kMainDivisors) consider(main / divisor, 0);
    for (const float divisor : kOtherDivisors) consider(-main / divisor, 0);
  }

  void search_with_offsets() {
    const auto [low, high] = std::minmax_element(w_, w_ + count_);
    const float middle = *low + (*high - *low) / 2, steps = float(spec_.codes() - 1);
    for (const float range : kRanges) {
      const float scale = (*high - *low) * range / steps;
      consider(scale, middle - scale * (steps / 2));
    }
    if (best_.scale == 0) best_.offset = stored(middle, spec_.scale_dtype);  // all weights are alike
  }

  // At 8 bits there is little to gain.
  void search_wide() {
    if (spec_.offsets) return search_with_offsets();
    float absmax = 0;
    for (int64_t i = 0; i < count_; ++i) absmax = std::max(absmax, std::fabs(w_[i]));
    for (const float divisor : {127.0f, 128.0f, 135.0f}) consider(absmax / divisor, 0);
  }

  Float4 codes_at(int64_t i, Float4 inverse, Float4 offset) const {
    const Float4 t = (load(w_ + i) - offset) * inverse;
    const float zero = float(spec_.zero());
    return larger(smaller(nearest(t), splat(float(spec_.codes() - 1) - zero)), splat(-zero));
  }

  void consider(float scale, float offset) {
    const Grid grid{stored(scale, spec_.scale_dtype), stored(offset, spec_.scale_dtype)};
    if (!(std::fabs(grid.scale) >= kTiniestScale) || !std::isfinite(grid.scale + grid.offset)) return;
    const Float4 inverse = splat(1.0f / grid.scale), scales = splat(grid.scale), offsets = splat(grid.offset);
    Float4 sum0 = {}, sum1 = {};
    for (int64_t i = 0; i < padded_; i += 8) {
      const Float4 e0 = load(w_ + i) - (codes_at(i, inverse, offsets) * scales + offsets);
      const Float4 e1 = load(w_ + i + 4) - (codes_at(i + 4, inverse, offsets) * scales + offsets);
      sum0 += e0 * e0 * load(importance_ + i);
      sum1 += e1 * e1 * load(importance_ + i + 4);
    }
    const float error = sum_of(sum0 + sum1);
    if (best_.scale != 0 && !(error < best_error_)) return;
    best_ = grid;
    best_error_ = error;
  }

  // Least squares for the codes that the best grid gives. Whether that was better.
  bool refine() {
    const Grid before = best_;
    const Float4 inverse = splat(1.0f / before.scale), offsets = splat(before.offset);
    Float4 m = {}, mq = {}, mqq = {}, mw = {}, mwq = {};
    for (int64_t i = 0; i < padded_; i += 4) {
      const Float4 q = codes_at(i, inverse, offsets), weight = load(importance_ + i),
                   v = load(w_ + i) * weight;
      m += weight;
      mq += weight * q;
      mqq += weight * q * q;
      mw += v;
      mwq += v * q;
    }
    const double count = double(sum_of(m)), q = double(sum_of(mq)), qq = double(sum_of(mqq));
    const double w = double(sum_of(mw)), wq = double(sum_of(mwq));
    if (!spec_.offsets) {
      if (qq > 0) consider(float(wq / qq), 0);
    } else if (const double spread = count * qq - q * q; spread > 1e-6 * count * qq) {
      const double scale = (count * wq - q * w) / spread;
      consider(float(scale), float((w - scale * q) / count));
    }
    return best_.scale != before.scale || best_.offset != before.offset;
  }

  const float* w_;
  const float* importance_;
  int64_t padded_, count_;
  const GridSpec& spec_;
  Grid best_;
  float best_error_ = 0;
};

}  // namespace

Grid search_grid(const float* w, const float* importance, int64_t count, const GridSpec& spec) {
  return Search(w, importance, count, spec).run();
}

}  // namespace llama4rt::calibrate
