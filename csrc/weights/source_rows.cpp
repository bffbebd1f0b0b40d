#include "weights/source_rows.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "weights/quantize.h"

namespace llama4rt {
namespace {

// The same values as to_float(fp16), without a branch so that it vectorises: shifting the half's fields into
// place gives the value times 2^-112, subnormals included.
float half_to_float(uint16_t bits) {
  const uint32_t magnitude = uint32_t(bits & 0x7fffu) << 13;
  uint32_t value = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
  value |= (bits & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
  return std::bit_cast<float>(value | uint32_t(bits & 0x8000u) << 16);
}

// Converts `count` adjacent elements; p may have any alignment.
void convert(const unsigned char* p, DType dtype, int64_t count, float* out) {
  if (dtype == DType::kF32) {
    std::memcpy(out, p, size_t(count) * 4);
    return;
  }
  constexpr int64_t kChunk = 256;
  uint16_t bits[kChunk];
  for (int64_t i = 0; i < count; i += kChunk) {
    const int64_t n = std::min(kChunk, count - i);
    std::memcpy(bits, p + i * 2, size_t(n) * 2);
    if (dtype == DType::kBF16) {
      for (int64_t j = 0; j < n; ++j) out[i + j] = to_float(bf16{bits[j]});
    } else {
      for (int64_t j = 0; j < n; ++j) out[i + j] = half_to_float(bits[j]);
    }
  }
}

}  // namespace

SourceRows::SourceRows(const SourceMatrix& source)
    : source_(source),
      // The extra 16 keep rows of a power-of-two length out of each other's cache sets.
      pitch_(round_up(source.columns, kGroupPadding) + 16) {}

void SourceRows::load(int64_t first, int64_t count) {
  first_ = first;
  values_.assign(size_t(count * pitch_), 0.0f);
  const int64_t element = int64_t(dtype_size(source_.dtype));
  if (source_.row_bytes == element && source_.column_bytes != element)
    load_by_columns(count);
  else
    load_by_rows(count);
}

void SourceRows::load_by_rows(int64_t count) {
  const int64_t element = int64_t(dtype_size(source_.dtype));
  for (int64_t r = 0; r < count; ++r) {
    const auto* p = static_cast<const unsigned char*>(source_.data) + (first_ + r) * source_.row_bytes;
    float* out = values_.data() + r * pitch_;
    if (source_.column_bytes == element) {
      convert(p, source_.dtype, source_.columns, out);
    } else {
      for (int64_t c = 0; c < source_.columns; ++c)
        convert(p + c * source_.column_bytes, source_.dtype, 1, out + c);
    }
  }
}

// Transposed source: neighbours in memory are neighbouring rows. Goes through a small tile, so that both
// sides are touched a cache line at a time.
void SourceRows::load_by_columns(int64_t count) {
  constexpr int64_t kTile = 32;
  float tile[kTile][kTile + 1];
  for (int64_t r0 = 0; r0 < count; r0 += kTile) {
    const int64_t height = std::min(kTile, count - r0);
    for (int64_t c0 = 0; c0 < source_.columns; c0 += kTile) {
      const int64_t width = std::min(kTile, source_.columns - c0);
      for (int64_t c = 0; c < width; ++c)
        convert(static_cast<const unsigned char*>(source_.data) + (first_ + r0) * source_.row_bytes +
                    (c0 + c) * source_.column_bytes,
                source_.dtype, height, tile[c]);
      for (int64_t r = 0; r < height; ++r) {
        float* out = values_.data() + (r0 + r) * pitch_ + c0;
        for (int64_t c = 0; c < width; ++c) out[c] = tile[c][r];
      }
    }
  }
}

int64_t SourceRows::find_non_finite(int64_t index) const {
  constexpr uint32_t kExponent = 0x7f800000u;
  const float* values = row(index);
  uint32_t largest = 0;
  for (int64_t c = 0; c < source_.columns; ++c)
    largest = std::max(largest, std::bit_cast<uint32_t>(values[c]) & kExponent);
  if (largest != kExponent) return -1;
  for (int64_t c = 0; c < source_.columns; ++c)
    if ((std::bit_cast<uint32_t>(values[c]) & kExponent) == kExponent) return c;
  return -1;
}

}  // namespace llama4rt
