#include "weights/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/checked_math.h"
#include "base/error.h"

namespace llama4rt {
namespace {

// Four lanes with a fixed order of addition give the same codes on every machine, and every machine has
// vectors of four floats: the compilers' vector types (GCC and Clang) need no intrinsics.
using Float4 = float __attribute__((vector_size(16)));
using Int4 = int32_t __attribute__((vector_size(16)));

Float4 load(const float* p) {
  Float4 v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
Float4 splat(float x) { return Float4{x, x, x, x}; }
// A bound that the compiler does not know: of a constant, GCC 12 makes a compare and three bit operations
// where one minps or maxps does.
Float4 splat_bound(float x) {
  const volatile float unknown = x;
  return splat(unknown);
}
Float4 smaller(Float4 a, Float4 b) { return a < b ? a : b; }
Float4 larger(Float4 a, Float4 b) { return a > b ? a : b; }
Float4 absolute(Float4 v) { return Float4(Int4(v) & 0x7fffffff); }

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

float horizontal_sum(Float4 v) { return (v[0] + v[2]) + (v[1] + v[3]); }
float horizontal_max(Float4 v) { return std::max(std::max(v[0], v[1]), std::max(v[2], v[3])); }

// The nearest code (ties to even) to t within [low, high], as a float: adding 1.5 * 2^23 rounds to an
// integer.
Float4 nearest_code(Float4 t, Float4 low, Float4 high) {
  constexpr float kMagic = 0x1.8p23f;
  return (larger(smaller(t, high), low) + kMagic) - kMagic;
}

struct Range {  // the value among w that is largest in magnitude
  float absmax = 0;
  bool positive = false;  // +absmax occurs
};

Range find_range(const float* w, int64_t padded) {
  Float4 high = {}, low = {};
  for (int64_t i = 0; i < padded; i += 4) {
    const Float4 v = load(w + i);
    high = larger(high, v);
    low = larger(low, 0.0f - v);
  }
  const float up = horizontal_max(high), down = horizontal_max(low);
  return {std::max(up, down), up >= down};
}

// Squared error of `scale` on the int4 grid, in units of scale^2.
float int4_error(const float* w, int64_t padded, float scale) {
  const Float4 inverse = splat(1.0f / scale), low = splat_bound(-8), high = splat_bound(7);
  Float4 sum0 = {}, sum1 = {};
  for (int64_t i = 0; i < padded; i += 8) {
    const Float4 t0 = load(w + i) * inverse, t1 = load(w + i + 4) * inverse;
    const Float4 e0 = t0 - nearest_code(t0, low, high), e1 = t1 - nearest_code(t1, low, high);
    sum0 += e0 * e0;
    sum1 += e1 * e1;
  }
  return horizontal_sum(sum0 + sum1);
}

// The scale that fits w best for the codes `scale` gives: sum(w q) / sum(q q); or 0 when all codes are zero.
float refit(const float* w, int64_t padded, float scale) {
  const Float4 inverse = splat(1.0f / scale), low = splat_bound(-8), high = splat_bound(7);
  Float4 wq = {}, qq = {};
  for (int64_t i = 0; i < padded; i += 4) {
    const Float4 t = load(w + i) * inverse;  // in units of scale: no overflow, no underflow
    const Float4 q = nearest_code(t, low, high);
    wq += t * q;
    qq += q * q;
  }
  const float squares = horizontal_sum(qq);
  return squares > 0 ? scale * (horizontal_sum(wq) / squares) : 0.0f;
}

// Writes codes q + offset for a fixed scale and measures what they lose.
void write_codes(const float* w, int64_t padded, float scale, int low_code, int high_code, uint8_t* codes,
                 GroupError& error) {
  const Float4 scales = splat(scale), inverse = splat(scale == 0 ? 0.0f : 1.0f / scale);
  const Float4 low = splat_bound(float(low_code)), high = splat_bound(float(high_code));
  Float4 squared = {}, worst = {};
  for (int64_t i = 0; i < padded; i += 4) {
    const Float4 v = load(w + i);
    const Float4 q = nearest_code(v * inverse, low, high);
    const Float4 e = v - q * scales;
    squared += e * e;
    worst = larger(worst, absolute(e));
    const Int4 code = __builtin_convertvector(q, Int4) - low_code;
    for (int j = 0; j < 4; ++j) codes[i + j] = uint8_t(code[j]);
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

float quantize_fp8_group(const float* w, int64_t count, DType scale_dtype, uint8_t* codes,
                         GroupError& error) {
  const int64_t padded = round_up(count, kGroupPadding);
  float scale = round_scale(find_range(w, padded).absmax / 448.0f, scale_dtype);
  if (scale < kTiniestScale) scale = 0;
  for (int64_t i = 0; i < padded; ++i) {
    const f8e4m3 code = to_f8e4m3(scale == 0 ? 0.0f : w[i] / scale);
    const float e = w[i] - to_float(code) * scale;
    codes[i] = code.bits;
    error.squared += double(e) * double(e);
    error.max_abs = std::max(error.max_abs, std::fabs(e));
  }
  return scale;
}

QuantizeGroup quantize_group(WeightKind kind) {
  switch (kind) {
    case WeightKind::kBF16:
    case WeightKind::kTable4:
      break;
    case WeightKind::kFp8:
      return quantize_fp8_group;
    case WeightKind::kInt8:
      return quantize_int8_group;
    case WeightKind::kInt4:
      return quantize_int4_group;
  }
  throw Error(ErrorKind::kInternal, error_text("values are not quantised to ", weight_kind_name(kind)));
}

}  // namespace llama4rt
