// Vec<Isa>: sixteen fp32 lanes, whatever the instruction set. The inner loops in cpu/generic are written once
// over it.
//
// Every table has the same sixteen virtual lanes (one zmm, two ymm, or an array), multiplies and adds only
// through fma() where the source says fma, and reduces by the same tree: so all tables give the same bits,
// and the scalar table is the oracle of the others. Nothing here may use an approximate instruction (rcp,
// rsqrt): those differ between vendors.
//
// This header is included only by cpu/isa/*.cpp, inside a namespace of that table: see isa/avx512.cpp.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "base/dtype.h"
#include "cpu/generic/intrinsics.h"

#ifndef LLAMA4RT_ISA
#error "include this file from cpu/isa/*.cpp only"
#endif

namespace llama4rt::cpu::LLAMA4RT_ISA {

inline constexpr int kLanes = 16;

// For the bodies of inner loops, whose arrays of Vec must become registers of the caller.
#define LLAMA4RT_INLINE inline __attribute__((always_inline))
#define LLAMA4RT_INLINE_LAMBDA __attribute__((always_inline))

#if defined(LLAMA4RT_ISA_AVX512)

struct Vec {
  __m512 v;
  static Vec zero() { return {_mm512_setzero_ps()}; }
  static Vec set1(float x) { return {_mm512_set1_ps(x)}; }
  static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Vec load(const bf16* p) {
    const __m256i raw = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16))};
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
// a * b - c in even lanes, a * b + c in odd ones; one rounding.
inline Vec fma_alternate(Vec a, Vec b, Vec c) { return {_mm512_fmaddsub_ps(a.v, b.v, c.v)}; }

#elif defined(LLAMA4RT_ISA_AVX2)

struct Vec {
  __m256 lo, hi;
  static Vec zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static Vec set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static Vec load(const bf16* p) {
    const auto* q = reinterpret_cast<const __m128i*>(p);
    return {widen(_mm_loadu_si128(q)), widen(_mm_loadu_si128(q + 1))};
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
inline Vec fma_alternate(Vec a, Vec b, Vec c) {
  return {_mm256_fmaddsub_ps(a.lo, b.lo, c.lo), _mm256_fmaddsub_ps(a.hi, b.hi, c.hi)};
}

#else  // scalar: the oracle

struct Vec {
  float v[16];
  template <class F>
  static Vec make(F lane) {
    Vec r;
    for (int i = 0; i < kLanes; ++i) r.v[i] = lane(i);
    return r;
  }
  static Vec zero() { return set1(0.f); }
  static Vec set1(float x) {
    return make([=](int) { return x; });
  }
  static Vec load(const float* p) {
    return make([=](int i) { return p[i]; });
  }
  static Vec load(const bf16* p) {
    return make([=](int i) { return to_float(p[i]); });
  }
  static Vec load_partial(const float* p, int n) {
    return make([=](int i) { return i < n ? p[i] : 0.f; });
  }
  void store(float* p) const { std::memcpy(p, v, sizeof(v)); }
  void store_partial(float* p, int n) const { std::memcpy(p, v, size_t(n) * 4); }
};
inline Vec operator+(Vec a, Vec b) {
  return Vec::make([&](int i) { return a.v[i] + b.v[i]; });
}
inline Vec operator-(Vec a, Vec b) {
  return Vec::make([&](int i) { return a.v[i] - b.v[i]; });
}
inline Vec operator*(Vec a, Vec b) {
  return Vec::make([&](int i) { return a.v[i] * b.v[i]; });
}
inline Vec operator/(Vec a, Vec b) {
  return Vec::make([&](int i) { return a.v[i] / b.v[i]; });
}
inline Vec fma(Vec a, Vec b, Vec c) {
  return Vec::make([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); });
}
inline Vec max(Vec a, Vec b) {
  return Vec::make([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Vec min(Vec a, Vec b) {
  return Vec::make([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline Vec even_lanes(Vec a) {
  return Vec::make([&](int i) { return a.v[i & ~1]; });
}
inline Vec odd_lanes(Vec a) {
  return Vec::make([&](int i) { return a.v[i | 1]; });
}
inline Vec swap_pairs(Vec a) {
  return Vec::make([&](int i) { return a.v[i ^ 1]; });
}
inline Vec fma_alternate(Vec a, Vec b, Vec c) {
  return Vec::make([&](int i) { return std::fma(a.v[i], b.v[i], i % 2 == 0 ? -c.v[i] : c.v[i]); });
}

#endif

// Sum of the lanes by one fixed tree: halves, quarters, pairs.
inline float reduce_add(Vec a) {
  alignas(64) float x[16];
  a.store(x);
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) x[i] += x[i + width];
  return x[0];
}
inline float reduce_max(Vec a) {
  alignas(64) float x[16];
  a.store(x);
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) x[i] = x[i] > x[i + width] ? x[i] : x[i + width];
  return x[0];
}

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
