// Vec as one zmm register.
#pragma once

#include "cpu/generic/lanes.h"
#include "cpu/x86/intrinsics.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

struct Vec {
  __m512 v;
  static Vec zero() { return {_mm512_setzero_ps()}; }
  static Vec set1(float x) { return {_mm512_set1_ps(x)}; }
  // p[0] in the even lanes, p[1] in the odd ones.
  static Vec set1_pair(const float* p) {
    double pair;
    std::memcpy(&pair, p, 8);
    return {_mm512_castpd_ps(_mm512_set1_pd(pair))};
  }
  static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Vec load(const bf16* p) {
    const __m256i raw = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16))};
  }
  static Vec load(const fp16* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  static Vec load(const int8_t* p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
  }
  // The NaN codes as 480. Sign and exponent move into the places of half precision, whose exponents are 8 larger.
  static Vec load(const f8e4m3* p) {
    const __m256i codes = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const __m256i halves = _mm256_and_si256(_mm256_slli_epi16(codes, 7), _mm256_set1_epi16(int16_t(0xbf80)));
    return {_mm512_mul_ps(_mm512_cvtph_ps(halves), _mm512_set1_ps(0x1p8f))};
  }
  // The first n < 16 lanes; the others are zero and memory behind them is not read.
  static Vec load_partial(const float* p, int n) { return {_mm512_maskz_loadu_ps(mask(n), p)}; }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void store_partial(float* p, int n) const { _mm512_mask_storeu_ps(p, mask(n), v); }
  static __mmask16 mask(int n) { return __mmask16((1u << n) - 1u); }
};
inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }  // a > b ? a : b, as maxps
inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Vec even_lanes(Vec a) { return {_mm512_moveldup_ps(a.v)}; }  // x0 x0 x2 x2 ...
inline Vec odd_lanes(Vec a) { return {_mm512_movehdup_ps(a.v)}; }   // x1 x1 x3 x3 ...
inline Vec swap_pairs(Vec a) { return {_mm512_permute_ps(a.v, 0xb1)}; }
// The sums of neighbouring lanes, those of a first.
inline Vec sum_pairs(Vec a, Vec b) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  return {_mm512_add_ps(_mm512_permutex2var_ps(a.v, even, b.v), _mm512_permutex2var_ps(a.v, odd, b.v))};
}
// a * b - c in even lanes, a * b + c in odd ones; one rounding.
inline Vec fma_alternate(Vec a, Vec b, Vec c) { return {_mm512_fmaddsub_ps(a.v, b.v, c.v)}; }

// What 32 zmm registers hold, as in cpu/scalar/vec_scalar.h.
inline constexpr int kTokenTile = 8;
inline constexpr int kValueRows = 5, kValueVecs = 4;
inline constexpr int kFmaChains = 12;

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
