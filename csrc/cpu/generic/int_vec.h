// IVec: the sixteen lanes of Vec as 32-bit integers. Arithmetic wraps (two's complement) in every table.
//
// dot_pairs is the heart of the quantised products: each 32-bit lane of a weight register is read as two
// int16, multiplied with a pair of int16 activations that is the same for all lanes, and added to int32 sums.
#pragma once

#include "cpu/generic/vec.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

inline int32_t load_i32(const void* p) {
  int32_t x;
  std::memcpy(&x, p, 4);
  return x;
}

#if defined(LLAMA4RT_ISA_AVX512)

struct IVec {
  __m512i v;
  static IVec zero() { return {_mm512_setzero_si512()}; }
  static IVec set1(int32_t x) { return {_mm512_set1_epi32(x)}; }
  static IVec load(const void* p) { return {_mm512_loadu_si512(p)}; }
  static IVec load_partial(const void* p, int n) { return {_mm512_maskz_loadu_epi32(Vec::mask(n), p)}; }
  static IVec load_u8(const uint8_t* p) {
    return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  // Two bytes to each lane, each to a half of 16 bits.
  static IVec load_u8_pairs(const void* p) {
    return {_mm512_cvtepu8_epi16(_mm256_loadu_si256(static_cast<const __m256i*>(p)))};
  }
  void store(void* p) const { _mm512_storeu_si512(p, v); }
  void store_i16(int16_t* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(v));
  }
  // As int8 in the order in which int4 lines hold their values once nibbles are split: of each eight,
  // 0 4 1 5 (the low nibbles) and 2 6 3 7.
  void store_i8_nibble_order(int8_t* p) const {
    const __m128i order = _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_shuffle_epi8(_mm512_cvtepi32_epi8(v), order));
  }
};
inline IVec operator&(IVec a, IVec b) { return {_mm512_and_si512(a.v, b.v)}; }
inline IVec operator+(IVec a, IVec b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline IVec operator-(IVec a, IVec b) { return {_mm512_sub_epi32(a.v, b.v)}; }
inline IVec operator*(IVec a, IVec b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
inline IVec max(IVec a, IVec b) { return {_mm512_max_epi32(a.v, b.v)}; }
template <int kBits>
inline IVec shift_left(IVec a) {
  return {_mm512_slli_epi32(a.v, kBits)};
}
template <int kBits>
inline IVec shift_right(IVec a) {  // zeros come in
  return {_mm512_srli_epi32(a.v, kBits)};
}
template <int kBits>
inline IVec shift_right_signed(IVec a) {
  return {_mm512_srai_epi32(a.v, kBits)};
}
inline IVec bits(Vec a) { return {_mm512_castps_si512(a.v)}; }
inline Vec from_bits(IVec a) { return {_mm512_castsi512_ps(a.v)}; }
inline Vec to_float(IVec a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline IVec round_to_int(Vec a) { return {_mm512_cvtps_epi32(a.v)}; }
inline int32_t reduce_add(IVec a) { return _mm512_reduce_add_epi32(a.v); }
inline int32_t reduce_max(IVec a) { return _mm512_reduce_max_epi32(a.v); }
inline IVec dot_pairs(IVec sum, IVec w, const int16_t* x) {
  const __m512i pair = _mm512_set1_epi32(load_i32(x));
#if defined(LLAMA4RT_ISA_VNNI)
  return {_mm512_dpwssd_epi32(sum.v, w.v, pair)};
#else
  return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(w.v, pair))};
#endif
}
// Each int16: sum += the two products of unsigned bytes of a with signed bytes of b; the caller keeps them
// small.
inline IVec add_byte_pairs(IVec sum, IVec a, IVec b) {
  return {_mm512_add_epi16(sum.v, _mm512_maddubs_epi16(a.v, b.v))};
}
// Each lane: its low int16 plus its high one.
inline IVec sum_int16_pairs(IVec a) { return {_mm512_madd_epi16(a.v, _mm512_set1_epi16(1))}; }
// Each lane: sum += the four products of unsigned bytes of a with signed bytes of b. Without VNNI pairs
// saturate.
inline IVec dot_bytes(IVec sum, IVec a, IVec b) {
#if defined(LLAMA4RT_ISA_VNNI)
  return {_mm512_dpbusd_epi32(sum.v, a.v, b.v)};
#else
  const __m512i pairs = _mm512_maddubs_epi16(a.v, b.v);
  return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))};
#endif
}

#elif defined(LLAMA4RT_ISA_AVX2)

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
inline IVec bits(Vec a) { return {_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)}; }
inline Vec from_bits(IVec a) { return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)}; }
inline Vec to_float(IVec a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
inline IVec round_to_int(Vec a) { return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)}; }
#if defined(LLAMA4RT_ISA_VNNI)
// VNNI comes in two encodings: VEX in processors without AVX-512, EVEX in those with it.
#if defined(__AVXVNNI__)
inline __m256i add_byte_products(__m256i sum, __m256i a, __m256i b) {
  return _mm256_dpbusd_avx_epi32(sum, a, b);
}
inline __m256i add_word_products(__m256i sum, __m256i a, __m256i b) {
  return _mm256_dpwssd_avx_epi32(sum, a, b);
}
#else
inline __m256i add_byte_products(__m256i sum, __m256i a, __m256i b) { return _mm256_dpbusd_epi32(sum, a, b); }
inline __m256i add_word_products(__m256i sum, __m256i a, __m256i b) { return _mm256_dpwssd_epi32(sum, a, b); }
#endif
#endif
inline IVec dot_pairs(IVec sum, IVec w, const int16_t* x) {
  const __m256i pair = _mm256_set1_epi32(load_i32(x));
#if defined(LLAMA4RT_ISA_VNNI)
  return {add_word_products(sum.lo, w.lo, pair), add_word_products(sum.hi, w.hi, pair)};
#else
  return {_mm256_add_epi32(sum.lo, _mm256_madd_epi16(w.lo, pair)),
          _mm256_add_epi32(sum.hi, _mm256_madd_epi16(w.hi, pair))};
#endif
}
inline IVec add_byte_pairs(IVec sum, IVec a, IVec b) {
  return {_mm256_add_epi16(sum.lo, _mm256_maddubs_epi16(a.lo, b.lo)),
          _mm256_add_epi16(sum.hi, _mm256_maddubs_epi16(a.hi, b.hi))};
}
inline IVec sum_int16_pairs(IVec a) {
  const __m256i ones = _mm256_set1_epi16(1);
  return {_mm256_madd_epi16(a.lo, ones), _mm256_madd_epi16(a.hi, ones)};
}
inline IVec dot_bytes(IVec sum, IVec a, IVec b) {
#if defined(LLAMA4RT_ISA_VNNI)
  return {add_byte_products(sum.lo, a.lo, b.lo), add_byte_products(sum.hi, a.hi, b.hi)};
#else
  const __m256i ones = _mm256_set1_epi16(1);
  return {_mm256_add_epi32(sum.lo, _mm256_madd_epi16(_mm256_maddubs_epi16(a.lo, b.lo), ones)),
          _mm256_add_epi32(sum.hi, _mm256_madd_epi16(_mm256_maddubs_epi16(a.hi, b.hi), ones))};
#endif
}

#else  // scalar

struct IVec {
  uint32_t v[16];  // unsigned: wrapping is defined
  template <class F>
  static IVec make(F lane) {
    IVec r;
    for (int i = 0; i < kLanes; ++i) r.v[i] = uint32_t(lane(i));
    return r;
  }
  static IVec zero() { return set1(0); }
  static IVec set1(int32_t x) {
    return make([=](int) { return x; });
  }
  static IVec load(const void* p) { return load_partial(p, kLanes); }
  static IVec load_partial(const void* p, int n) {
    IVec r = zero();
    std::memcpy(r.v, p, size_t(n) * 4);
    return r;
  }
  static IVec load_u8(const uint8_t* p) {
    return make([=](int i) { return p[i]; });
  }
  static IVec load_u8_pairs(const void* p) {
    const auto* q = static_cast<const uint8_t*>(p);
    return make([=](int i) { return uint32_t(q[2 * i]) | uint32_t(q[2 * i + 1]) << 16; });
  }
  void store(void* p) const { std::memcpy(p, v, sizeof(v)); }
  void store_i16(int16_t* p) const {
    for (int i = 0; i < kLanes; ++i) p[i] = int16_t(uint16_t(v[i]));
  }
  void store_i8_nibble_order(int8_t* p) const {
    constexpr int kOrder[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    for (int i = 0; i < kLanes; ++i) p[i] = int8_t(uint8_t(v[i / 8 * 8 + kOrder[i % 8]]));
  }
};
inline IVec operator&(IVec a, IVec b) {
  return IVec::make([&](int i) { return a.v[i] & b.v[i]; });
}
inline IVec operator+(IVec a, IVec b) {
  return IVec::make([&](int i) { return a.v[i] + b.v[i]; });
}
inline IVec operator-(IVec a, IVec b) {
  return IVec::make([&](int i) { return a.v[i] - b.v[i]; });
}
inline IVec operator*(IVec a, IVec b) {
  return IVec::make([&](int i) { return a.v[i] * b.v[i]; });
}
inline IVec max(IVec a, IVec b) {
  return IVec::make([&](int i) { return int32_t(a.v[i]) > int32_t(b.v[i]) ? a.v[i] : b.v[i]; });
}
template <int kBits>
inline IVec shift_left(IVec a) {
  return IVec::make([&](int i) { return a.v[i] << kBits; });
}
template <int kBits>
inline IVec shift_right(IVec a) {
  return IVec::make([&](int i) { return a.v[i] >> kBits; });
}
template <int kBits>
inline IVec shift_right_signed(IVec a) {
  return IVec::make([&](int i) { return int32_t(a.v[i]) >> kBits; });
}
inline IVec bits(Vec a) {
  IVec r;
  std::memcpy(r.v, a.v, sizeof(r.v));
  return r;
}
inline Vec from_bits(IVec a) {
  Vec r;
  std::memcpy(r.v, a.v, sizeof(r.v));
  return r;
}
inline Vec to_float(IVec a) {
  return Vec::make([&](int i) { return float(int32_t(a.v[i])); });
}
inline IVec round_to_int(Vec a) {  // nearest even; the callers stay inside int32
  return IVec::make([&](int i) { return int32_t(std::nearbyint(a.v[i])); });
}
inline IVec dot_pairs(IVec sum, IVec w, const int16_t* x) {
  const int32_t x0 = x[0], x1 = x[1];
  return IVec::make([&](int i) {
    const int32_t w0 = int16_t(uint16_t(w.v[i])), w1 = int16_t(uint16_t(w.v[i] >> 16));
    return sum.v[i] + uint32_t(w0 * x0) + uint32_t(w1 * x1);
  });
}
inline IVec add_byte_pairs(IVec sum, IVec a, IVec b) {
  const auto product = [&](int i, int shift) {
    return int32_t(uint8_t(a.v[i] >> shift)) * int32_t(int8_t(b.v[i] >> shift));
  };
  return IVec::make([&](int i) {
    const uint32_t low = uint32_t(product(i, 0) + product(i, 8)),
                   high = uint32_t(product(i, 16) + product(i, 24));
    return ((sum.v[i] + low) & 0xffff) | (((sum.v[i] >> 16) + high) << 16);
  });
}
inline IVec sum_int16_pairs(IVec a) {
  return IVec::make([&](int i) { return int16_t(uint16_t(a.v[i])) + int16_t(uint16_t(a.v[i] >> 16)); });
}
inline IVec dot_bytes(IVec sum, IVec a, IVec b) {
  return IVec::make([&](int i) {
    uint32_t total = sum.v[i];
    for (int shift = 0; shift < 32; shift += 8)
      total += uint32_t(int32_t(uint8_t(a.v[i] >> shift)) * int32_t(int8_t(b.v[i] >> shift)));
    return total;
  });
}

#endif

#if !defined(LLAMA4RT_ISA_AVX512)
inline int32_t reduce_add(IVec a) {
  alignas(64) uint32_t x[16];
  a.store(x);
  uint32_t sum = 0;
  for (uint32_t lane : x) sum += lane;
  return int32_t(sum);
}
inline int32_t reduce_max(IVec a) {
  alignas(64) int32_t x[16];
  a.store(x);
  int32_t best = x[0];
  for (int32_t lane : x) best = lane > best ? lane : best;
  return best;
}
#endif

// The two bf16 of each 32-bit word: low half and high half, as fp32.
inline Vec low_bf16(IVec words) { return from_bits(shift_left<16>(words)); }
inline Vec high_bf16(IVec words) { return from_bits(words & IVec::set1(int32_t(0xffff0000u))); }

// The two e4m3 codes of each lane, one in each half of 16 bits, as fp32. Exact, but the two NaN codes read as
// 480. Sign, exponent and mantissa move into the places of bf16, where the exponent's bias is 120 too small.
inline void widen_f8_pairs(Vec& low, Vec& high, IVec codes) {
  const IVec sign = shift_left<8>(codes) & IVec::set1(int32_t(0x80008000u));
  const IVec magnitude = shift_left<4>(codes) & IVec::set1(0x07f007f0);
#if defined(LLAMA4RT_ISA_AVX512)
  // The codes below 8 have no leading one: 0 to 7 times 2^-9, from a table.
  const __m512i small =
      _mm512_castsi128_si512(_mm_setr_epi16(0, 0x3b00, 0x3b80, 0x3bc0, 0x3c00, 0x3c20, 0x3c40, 0x3c60));
  const __m512i words = _mm512_mask_permutexvar_epi16(
      _mm512_add_epi16(magnitude.v, _mm512_set1_epi16(120 << 7)),
      _mm512_cmplt_epu16_mask(magnitude.v, _mm512_set1_epi16(8 << 4)), codes.v, small);
  low = low_bf16(IVec{words} + sign);
  high = high_bf16(IVec{words} + sign);
#else
  const Vec bias = Vec::set1(0x1p120f);
  low = low_bf16(magnitude + sign) * bias;
  high = high_bf16(magnitude + sign) * bias;
#endif
}

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
