#include "format/quantize.h"

#include <emmintrin.h>

#include <algorithm>
#include <cmath>

#include "base/checked_math.h"

namespace llama4rt {
namespace {

// SSE2 is part of every x86-64, so this file needs no instruction-set flags, and four lanes with a fixed
// order of addition give the same codes on every machine.

// Below this a scale's reciprocal leaves the range of fp32; such a group is stored as zeros.
constexpr float kTiniestScale = 0x1p-120f;

// Candidate steps are absmax / kDivisors. The element of largest magnitude goes to code -8, the longer side,
// for "main" candidates and towards +7 for "other" ones. More than 8 clips the largest element to give all
// others a finer grid.
constexpr float kMainDivisors[] = {7.0f, 7.5f, 8.0f, 8.6f, 9.3f, 10.2f};
constexpr float kOtherDivisors[] = {6.8f, 7.5f, 8.0f};
constexpr int kRefinements = 2;

float round_scale(float scale, DType dtype) {
  return dtype == DType::kBF16 ? to_float(to_bf16(scale)) : scale;
}

float horizontal_sum(__m128 v) {
  float lanes[4];
  _mm_storeu_ps(lanes, v);
  return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
}

float horizontal_max(__m128 v) {
  float lanes[4];
  _mm_storeu_ps(lanes, v);
  return std::max(std::max(lanes[0], lanes[1]), std::max(lanes[2], lanes[3]));
}

__m128 absolute(__m128 v) { return _mm_andnot_ps(_mm_set1_ps(-0.0f), v); }

// The nearest code (ties to even) to t within [low, high], as a float.
__m128 nearest_code(__m128 t, __m128 low, __m128 high) {
  return _mm_cvtepi32_ps(_mm_cvtps_epi32(_mm_max_ps(_mm_min_ps(t, high), low)));
}

struct Range {  // the value among w that is largest in magnitude
  float absmax = 0;
  bool positive = false;  // +absmax occurs
};

Range find_range(const float* w, int64_t padded) {
  __m128 high = _mm_setzero_ps(), low = _mm_setzero_ps();
  for (int64_t i = 0; i < padded; i += 4) {
    const __m128 v = _mm_loadu_ps(w + i);
    high = _mm_max_ps(high, v);
    low = _mm_max_ps(low, _mm_sub_ps(_mm_setzero_ps(), v));
  }
  const float up = horizontal_max(high), down = horizontal_max(low);
  return {std::max(up, down), up >= down};
}

// Squared error of `scale` on the int4 grid, in units of scale^2.
float int4_error(const float* w, int64_t padded, float scale) {
  const __m128 inverse = _mm_set1_ps(1.0f / scale), low = _mm_set1_ps(-8), high = _mm_set1_ps(7);
  __m128 sum0 = _mm_setzero_ps(), sum1 = _mm_setzero_ps();
  for (int64_t i = 0; i < padded; i += 8) {
    const __m128 t0 = _mm_mul_ps(_mm_loadu_ps(w + i), inverse);
    const __m128 t1 = _mm_mul_ps(_mm_loadu_ps(w + i + 4), inverse);
    const __m128 e0 = _mm_sub_ps(t0, nearest_code(t0, low, high));
    const __m128 e1 = _mm_sub_ps(t1, nearest_code(t1, low, high));
    sum0 = _mm_add_ps(sum0, _mm_mul_ps(e0, e0));
    sum1 = _mm_add_ps(sum1, _mm_mul_ps(e1, e1));
  }
  return horizontal_sum(_mm_add_ps(sum0, sum1));
}

// The scale that fits w best for the codes `scale` gives: sum(w q) / sum(q q); or 0 when all codes are zero.
float refit(const float* w, int64_t padded, float scale) {
  const __m128 inverse = _mm_set1_ps(1.0f / scale), low = _mm_set1_ps(-8), high = _mm_set1_ps(7);
  __m128 wq = _mm_setzero_ps(), qq = _mm_setzero_ps();
  for (int64_t i = 0; i < padded; i += 4) {
    const __m128 t =
        _mm_mul_ps(_mm_loadu_ps(w + i), inverse);  // in units of scale: no overflow, no underflow
    const __m128 q = nearest_code(t, low, high);
    wq = _mm_add_ps(wq, _mm_mul_ps(t, q));
    qq = _mm_add_ps(qq, _mm_mul_ps(q, q));
  }
  const float squares = horizontal_sum(qq);
  return squares > 0 ? scale * (horizontal_sum(wq) / squares) : 0.0f;
}

// Writes codes q + offset for a fixed scale and measures what they lose.
void write_codes(const float* w, int64_t padded, float scale, int low_code, int high_code, uint8_t* codes,
                 GroupError& error) {
  const __m128 scales = _mm_set1_ps(scale), inverse = _mm_set1_ps(scale == 0 ? 0.0f : 1.0f / scale);
  const __m128 low = _mm_set1_ps(float(low_code)), high = _mm_set1_ps(float(high_code));
  const __m128i offset = _mm_set1_epi32(-low_code);
  __m128 squared = _mm_setzero_ps(), worst = _mm_setzero_ps();
  for (int64_t i = 0; i < padded; i += 4) {
    const __m128 v = _mm_loadu_ps(w + i);
    const __m128 q = nearest_code(_mm_mul_ps(v, inverse), low, high);
    const __m128 e = _mm_sub_ps(v, _mm_mul_ps(q, scales));
    squared = _mm_add_ps(squared, _mm_mul_ps(e, e));
    worst = _mm_max_ps(worst, absolute(e));
    int32_t q_int[4];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q_int), _mm_add_epi32(_mm_cvtps_epi32(q), offset));
    for (int j = 0; j < 4; ++j) codes[i + j] = uint8_t(q_int[j]);
  }
  error.squared += double(horizontal_sum(squared));
  error.max_abs = std::max(error.max_abs, horizontal_max(worst));
}

// Keeps the best scale seen.
class Search {
 public:
  Search(const float* w, int64_t padded, DType scale_dtype)
      : w_(w), padded_(padded), scale_dtype_(scale_dtype) {}

  void consider(float wanted) {
    const float scale = round_scale(wanted, scale_dtype_);
    if (!(std::fabs(scale) >= kTiniestScale) || scale == best_) return;
    const double error = double(int4_error(w_, padded_, scale)) * double(scale) * double(scale);
    if (best_ != 0 && !(error < best_error_)) return;
    best_ = scale;
    best_error_ = error;
  }
  float best() const { return best_; }

 private:
  const float* w_;
  int64_t padded_;
  DType scale_dtype_;
  float best_ = 0;
  double best_error_ = 0;
};

}  // namespace

float quantize_int4_group(const float* w, int64_t count, DType scale_dtype, uint8_t* codes,
                          GroupError& error) {
  const int64_t padded = round_up(count, kGroupPadding);
  const Range range = find_range(w, padded);
  const float main = range.positive ? -range.absmax : range.absmax;
  Search search(w, padded, scale_dtype);
  for (const float divisor : kMainDivisors) search.consider(main / divisor);
  for (const float divisor : kOtherDivisors) search.consider(-main / divisor);
  for (int i = 0; i < kRefinements && search.best() != 0; ++i)
    search.consider(refit(w, padded, search.best()));
  write_codes(w, padded, search.best(), -8, 7, codes, error);
  return search.best();
}

float quantize_int8_group(const float* w, int64_t count, DType scale_dtype, uint8_t* codes,
                          GroupError& error) {
  const int64_t padded = round_up(count, kGroupPadding);
  float scale = round_scale(find_range(w, padded).absmax / 127.0f, scale_dtype);
  if (scale < kTiniestScale) scale = 0;
  write_codes(w, padded, scale, -128, 127, codes, error);
  return scale;
}

}  // namespace llama4rt
