// Vec as two ymm registers.
#pragma once

#include "cpu/generic/lanes.h"
#include "cpu/x86/intrinsics.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

struct Vec {
  __m256 lo, hi;
  static Vec zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static Vec set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static Vec set1_pair(const float* p) {
    double pair;
    std::memcpy(&pair, p, 8);
    const __m256 x = _mm256_castpd_ps(_mm256_set1_pd(pair));
    return {x, x};
  }
  static Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static Vec load(const bf16* p) {
    const auto* q = reinterpret_cast<const __m128i*>(p);
    return {widen(_mm_loadu_si128(q)), widen(_mm_loadu_si128(q + 1))};
  }
  static Vec load(const fp16* p) {
    return widen_halves(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Vec load(const int8_t* p) {
    const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(raw)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(raw, 8)))};
  }
  // Sign and exponent move into the places of half precision, whose exponents are 8 larger.
  static Vec load(const f8e4m3* p) {
    const __m256i codes = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const __m256i halves = _mm256_and_si256(_mm256_slli_epi16(codes, 7), _mm256_set1_epi16(int16_t(0xbf80)));
    const Vec v = widen_halves(halves);
    return {_mm256_mul_ps(v.lo, _mm256_set1_ps(0x1p8f)), _mm256_mul_ps(v.hi, _mm256_set1_ps(0x1p8f))};
  }
  static Vec widen_halves(__m256i halves) {
    return {_mm256_cvtph_ps(_mm256_castsi256_si128(halves)),
            _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1))};
  }
  static Vec load_partial(const float* p, int n) {
    alignas(32) float lanes[16] = {};
    std::memcpy(lanes, p, size_t(n) * 4);
    return load(lanes);
  }
  void store(float* p) const {
    _mm256_storeu_ps(p, lo);
    _mm256_storeu_ps(p + 8, hi);
  }
  void store_partial(float* p, int n) const {
    alignas(32) float lanes[16];
    store(lanes);
    std::memcpy(p, lanes, size_t(n) * 4);
  }
  static __m256 widen(__m128i raw) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw), 16));
  }
};
inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline Vec fma(Vec a, Vec b, Vec c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
inline Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline Vec even_lanes(Vec a) { return {_mm256_moveldup_ps(a.lo), _mm256_moveldup_ps(a.hi)}; }
inline Vec odd_lanes(Vec a) { return {_mm256_movehdup_ps(a.lo), _mm256_movehdup_ps(a.hi)}; }
inline Vec swap_pairs(Vec a) { return {_mm256_permute_ps(a.lo, 0xb1), _mm256_permute_ps(a.hi, 0xb1)}; }
inline Vec sum_pairs(Vec a, Vec b) {
  const auto sums = [](Vec v) {  // hadd gives 64-bit quarters lo0 hi0 lo1 hi1
    const __m256d mixed = _mm256_castps_pd(_mm256_hadd_ps(v.lo, v.hi));
    return _mm256_castpd_ps(_mm256_permute4x64_pd(mixed, 0xd8));
  };
  return {sums(a), sums(b)};
}
inline Vec fma_alternate(Vec a, Vec b, Vec c) {
  return {_mm256_fmaddsub_ps(a.lo, b.lo, c.lo), _mm256_fmaddsub_ps(a.hi, b.hi, c.hi)};
}

// What sixteen ymm registers, two to a vector, hold, as in cpu/scalar/vec_scalar.h.
inline constexpr int kTokenTile = 3;
inline constexpr int kValueRows = 2, kValueVecs = 2;
inline constexpr int kFmaChains = 6;

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
