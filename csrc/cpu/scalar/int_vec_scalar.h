// IVec as an array: the meaning of every other IVec.
#pragma once

#include "cpu/scalar/vec_scalar.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

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
  // Two bytes to each lane, each to a half of 16 bits.
  static IVec load_u8_pairs(const void* p) {
    const auto* q = static_cast<const uint8_t*>(p);
    return make([=](int i) { return uint32_t(q[2 * i]) | uint32_t(q[2 * i + 1]) << 16; });
  }
  void store(void* p) const { std::memcpy(p, v, sizeof(v)); }
  void store_i16(int16_t* p) const {
    for (int i = 0; i < kLanes; ++i) p[i] = int16_t(uint16_t(v[i]));
  }
  // As int8 in the order in which int4 lines hold their values once nibbles are split: of each eight,
  // 0 4 1 5 (the low nibbles) and 2 6 3 7.
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
inline IVec shift_right(IVec a) {  // zeros come in
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
// Each lane of w is two int16, multiplied with a pair of int16 that is the same for all lanes, and added to
// sum.
inline IVec dot_pairs(IVec sum, IVec w, const int16_t* x) {
  const int32_t x0 = x[0], x1 = x[1];
  return IVec::make([&](int i) {
    const int32_t w0 = int16_t(uint16_t(w.v[i])), w1 = int16_t(uint16_t(w.v[i] >> 16));
    return sum.v[i] + uint32_t(w0 * x0) + uint32_t(w1 * x1);
  });
}
// Each int16: sum += the two products of unsigned bytes of a with signed bytes of b; the caller keeps them
// small.
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
// Each lane: its low int16 plus its high one.
inline IVec sum_int16_pairs(IVec a) {
  return IVec::make([&](int i) { return int16_t(uint16_t(a.v[i])) + int16_t(uint16_t(a.v[i] >> 16)); });
}
// Each lane: sum += the four products of unsigned bytes of a with signed bytes of b. Tables with kBytePairs
// cut sums of two products to int16.
inline IVec dot_bytes(IVec sum, IVec a, IVec b) {
  return IVec::make([&](int i) {
    uint32_t total = sum.v[i];
    for (int shift = 0; shift < 32; shift += 8)
      total += uint32_t(int32_t(uint8_t(a.v[i] >> shift)) * int32_t(int8_t(b.v[i] >> shift)));
    return total;
  });
}

// Independent sums per row in int_block and in byte_block, for so many rows of activations at once.
constexpr int int_chains(int) { return 2; }
// Whether byte_block adds products as int16 first (add_byte_pairs), because dot_bytes does not give exact
// sums.
inline constexpr bool kBytePairs = true;
constexpr int byte_chains(int) { return 1; }
inline constexpr int kInt8Chains = 4;
// From here on the compiler does not know what x holds, so it cannot share or hoist what is computed from it.
LLAMA4RT_INLINE void forget_value(IVec& x) { __asm__ volatile("" : "+m"(x)); }

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
