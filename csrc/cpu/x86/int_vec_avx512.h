// IVec as one zmm register, but for the dot products: those are in dot_avx512.h and dot_avx512_vnni.h.
#pragma once

#include "cpu/x86/vec_avx512.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

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
  // The same sixteen bytes in every 128 bits.
  static IVec repeat16(const void* p) {
    return {_mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i*>(p)))};
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
// Each byte of `codes`, 0..15, becomes that byte of `table`, which repeat16() made.
inline IVec look_up(IVec table, IVec codes) { return {_mm512_shuffle_epi8(table.v, codes.v)}; }
inline IVec bits(Vec a) { return {_mm512_castps_si512(a.v)}; }
inline Vec from_bits(IVec a) { return {_mm512_castsi512_ps(a.v)}; }
inline Vec to_float(IVec a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline IVec round_to_int(Vec a) { return {_mm512_cvtps_epi32(a.v)}; }
inline int32_t reduce_add(IVec a) { return _mm512_reduce_add_epi32(a.v); }
inline int32_t reduce_max(IVec a) { return _mm512_reduce_max_epi32(a.v); }
// Each int16: sum += the two products of unsigned bytes of a with signed bytes of b; the caller keeps them
// small.
inline IVec add_byte_pairs(IVec sum, IVec a, IVec b) {
  return {_mm512_add_epi16(sum.v, _mm512_maddubs_epi16(a.v, b.v))};
}
// Each lane: its low int16 plus its high one.
inline IVec sum_int16_pairs(IVec a) { return {_mm512_madd_epi16(a.v, _mm512_set1_epi16(1))}; }

// The two e4m3 codes of each lane, as in cpu/generic/int_vec.h: sign, exponent and mantissa move into the
// places of bf16 and the exponent's bias is added. The codes below 8 have no leading one: 0 to 7 times 2^-9,
// from a table.
inline void widen_f8_pairs(Vec& low, Vec& high, IVec codes) {
  const IVec sign = shift_left<8>(codes) & IVec::set1(int32_t(0x80008000u));
  const IVec magnitude = shift_left<4>(codes) & IVec::set1(0x07f007f0);
  const __m512i small =
      _mm512_castsi128_si512(_mm_setr_epi16(0, 0x3b00, 0x3b80, 0x3bc0, 0x3c00, 0x3c20, 0x3c40, 0x3c60));
  const IVec words = {_mm512_mask_permutexvar_epi16(
      _mm512_add_epi16(magnitude.v, _mm512_set1_epi16(120 << 7)),
      _mm512_cmplt_epu16_mask(magnitude.v, _mm512_set1_epi16(8 << 4)), codes.v, small)};
  const IVec pairs = words + sign;
  low = from_bits(shift_left<16>(pairs));
  high = from_bits(pairs & IVec::set1(int32_t(0xffff0000u)));
}

// Signed bytes as magnitudes and signs, as in cpu/scalar/int_vec_scalar.h.
struct ByteSigns {
  __mmask64 negative;
};
inline ByteSigns byte_signs(IVec a) { return {_mm512_movepi8_mask(a.v)}; }
inline IVec byte_magnitudes(IVec a) { return {_mm512_abs_epi8(a.v)}; }
inline IVec with_signs(IVec x, ByteSigns signs) {
  return {_mm512_mask_sub_epi8(x.v, signs.negative, _mm512_setzero_si512(), x.v)};
}
// The codes of a line of fp8 weights times 2^-8, as in cpu/scalar/int_vec_scalar.h: a byte becomes sign and exponent of
// a half; bit 14 gets a copy of the sign, which goes.
inline void widen_f8_line(Vec (&out)[4], const void* line) {
  const __m512i words = _mm512_loadu_si512(line), kept = _mm512_set1_epi16(int16_t(0xbf80));
  const __m512i first = _mm512_and_si512(_mm512_srai_epi16(_mm512_slli_epi16(words, 8), 1), kept);
  const __m512i second = _mm512_and_si512(_mm512_srai_epi16(words, 1), kept);
  out[0] = {_mm512_cvtph_ps(_mm512_castsi512_si256(first))};
  out[1] = {_mm512_cvtph_ps(_mm512_extracti64x4_epi64(first, 1))};
  out[2] = {_mm512_cvtph_ps(_mm512_castsi512_si256(second))};
  out[3] = {_mm512_cvtph_ps(_mm512_extracti64x4_epi64(second, 1))};
}

inline constexpr int kInt8Chains = 12;
LLAMA4RT_INLINE void forget_value(IVec& x) { __asm__ volatile("" : "+v"(x.v)); }

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
