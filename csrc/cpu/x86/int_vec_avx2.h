// IVec as two ymm registers, but for the dot products: those are in dot_avx2.h and dot_avx_vnni.h.
#pragma once

#include "cpu/x86/vec_avx2.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

struct IVec {
  __m256i lo, hi;
  static IVec zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static IVec set1(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
  static IVec load(const void* p) {
    const auto* q = static_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
  }
  static IVec load_partial(const void* p, int n) {
    alignas(32) int32_t lanes[16] = {};
    std::memcpy(lanes, p, size_t(n) * 4);
    return load(lanes);
  }
  static IVec load_u8(const uint8_t* p) {
    const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepu8_epi32(raw), _mm256_cvtepu8_epi32(_mm_srli_si128(raw, 8))};
  }
  static IVec load_u8_pairs(const void* p) {
    const auto* q = static_cast<const __m128i*>(p);
    return {_mm256_cvtepu8_epi16(_mm_loadu_si128(q)), _mm256_cvtepu8_epi16(_mm_loadu_si128(q + 1))};
  }
  static IVec repeat16(const void* p) {
    const __m256i x = _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(p)));
    return {x, x};
  }
  void store(void* p) const {
    auto* q = static_cast<__m256i*>(p);
    _mm256_storeu_si256(q, lo);
    _mm256_storeu_si256(q + 1, hi);
  }
  void store_i16(int16_t* p) const {
    const __m256i mixed = _mm256_packs_epi32(lo, hi);  // 64-bit quarters lo0 hi0 lo1 hi1
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(mixed, 0xd8));
  }
  void store_i8_nibble_order(int8_t* p) const {
    alignas(32) int16_t wide[16];
    store_i16(wide);
    const auto* q = reinterpret_cast<const __m128i*>(wide);
    const __m128i order = _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
    const __m128i bytes = _mm_packs_epi16(_mm_load_si128(q), _mm_load_si128(q + 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_shuffle_epi8(bytes, order));
  }
};
inline IVec operator&(IVec a, IVec b) { return {_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)}; }
inline IVec operator+(IVec a, IVec b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
inline IVec operator-(IVec a, IVec b) { return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)}; }
inline IVec operator*(IVec a, IVec b) {
  return {_mm256_mullo_epi32(a.lo, b.lo), _mm256_mullo_epi32(a.hi, b.hi)};
}
inline IVec max(IVec a, IVec b) { return {_mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi)}; }
template <int kBits>
inline IVec shift_left(IVec a) {
  return {_mm256_slli_epi32(a.lo, kBits), _mm256_slli_epi32(a.hi, kBits)};
}
template <int kBits>
inline IVec shift_right(IVec a) {
  return {_mm256_srli_epi32(a.lo, kBits), _mm256_srli_epi32(a.hi, kBits)};
}
template <int kBits>
inline IVec shift_right_signed(IVec a) {
  return {_mm256_srai_epi32(a.lo, kBits), _mm256_srai_epi32(a.hi, kBits)};
}
inline IVec look_up(IVec table, IVec codes) {
  return {_mm256_shuffle_epi8(table.lo, codes.lo), _mm256_shuffle_epi8(table.hi, codes.hi)};
}
inline IVec bits(Vec a) { return {_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)}; }
inline Vec from_bits(IVec a) { return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)}; }
inline Vec to_float(IVec a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
inline IVec round_to_int(Vec a) { return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)}; }
inline IVec add_byte_pairs(IVec sum, IVec a, IVec b) {
  return {_mm256_add_epi16(sum.lo, _mm256_maddubs_epi16(a.lo, b.lo)),
          _mm256_add_epi16(sum.hi, _mm256_maddubs_epi16(a.hi, b.hi))};
}
inline IVec sum_int16_pairs(IVec a) {
  const __m256i ones = _mm256_set1_epi16(1);
  return {_mm256_madd_epi16(a.lo, ones), _mm256_madd_epi16(a.hi, ones)};
}

struct ByteSigns {
  IVec v;
};
inline ByteSigns byte_signs(IVec a) { return {a}; }
inline IVec byte_magnitudes(IVec a) { return {_mm256_abs_epi8(a.lo), _mm256_abs_epi8(a.hi)}; }
inline IVec with_signs(IVec x, ByteSigns signs) {
  return {_mm256_sign_epi8(x.lo, signs.v.lo), _mm256_sign_epi8(x.hi, signs.v.hi)};
}
inline void widen_f8_line(Vec (&out)[4], const void* line) {
  const IVec words = IVec::load(line);
  // Sign and exponent of a half; bit 14 gets a copy of the sign, which goes.
  const __m256i kept = _mm256_set1_epi16(int16_t(0xbf80));
  const auto halves_of_high_bytes = [&](__m256i a) {
    return _mm256_and_si256(_mm256_srai_epi16(a, 1), kept);
  };
  const auto widen = [](__m256i a) {
    return Vec{_mm256_cvtph_ps(_mm256_castsi256_si128(a)), _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1))};
  };
  out[0] = widen(halves_of_high_bytes(_mm256_slli_epi16(words.lo, 8)));
  out[1] = widen(halves_of_high_bytes(_mm256_slli_epi16(words.hi, 8)));
  out[2] = widen(halves_of_high_bytes(words.lo));
  out[3] = widen(halves_of_high_bytes(words.hi));
}

inline constexpr int kInt8Chains = 4;
LLAMA4RT_INLINE void forget_value(IVec& x) { __asm__ volatile("" : "+x"(x.lo), "+x"(x.hi)); }

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
