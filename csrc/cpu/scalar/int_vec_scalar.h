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
  // The same sixteen bytes in every 128 bits.
  static IVec repeat16(const void* p) {
    IVec r;
    for (int i = 0; i < kLanes; i += 4) std::memcpy(r.v + i, p, 16);
    return r;
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
// Each byte of `codes`, 0..15, becomes that byte of `table`, which repeat16() made.
inline IVec look_up(IVec table, IVec codes) {
  const auto byte = [&](uint32_t code) { return table.v[code / 4] >> (code % 4 * 8) & 0xff; };
  return IVec::make([&](int i) {
    uint32_t word = 0;
    for (int shift = 0; shift < 32; shift += 8) word |= byte(codes.v[i] >> shift & 0xff) << shift;
    return word;
  });
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
// Signed bytes as magnitudes and signs: magnitudes (up to 128, unsigned) times what with_signs() makes of other bytes
// are the products of both, for instructions that multiply unsigned bytes with signed ones.
struct ByteSigns {
  IVec v;
};
inline ByteSigns byte_signs(IVec a) { return {a}; }
inline IVec byte_magnitudes(IVec a) {
  return IVec::make([&](int i) {
    uint32_t word = 0;
    for (int shift = 0; shift < 32; shift += 8) {
      const int32_t byte = int8_t(uint8_t(a.v[i] >> shift));
      word |= uint32_t(byte < 0 ? -byte : byte) << shift;
    }
    return word;
  });
}
// Each byte of x, above -128, negated where the sign is; where the other byte was 0, anything.
inline IVec with_signs(IVec x, ByteSigns signs) {
  return IVec::make([&](int i) {
    uint32_t word = 0;
    for (int shift = 0; shift < 32; shift += 8) {
      const bool negative = signs.v.v[i] >> shift & 0x80;
      const int32_t byte = int8_t(uint8_t(x.v[i] >> shift));
      word |= uint32_t(uint8_t(negative ? -byte : byte)) << shift;
    }
    return word;
  });
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

// The 64 e4m3 codes of a line of fp8 weights (weights/layout.h) times 2^-8, but the two NaN codes as 480: rows 0 to 7
// of k, k + 1, then rows 8 to 15 of these, then both of k + 2, k + 3; lanes 2r and 2r + 1 are of one row. 2^-8 because
// x86 reads e4m3 as half precision, whose exponents are 8 larger.
inline void widen_f8_line(Vec (&out)[4], const void* line) {
  constexpr int kByteOf[4] = {0, 2, 1, 3};  // of k + 0, 1, 2, 3
  const auto* bytes = static_cast<const uint8_t*>(line);
  for (int j = 0; j < 4; ++j)
    out[j] = Vec::make([&](int i) {
      const int row = j % 2 * 8 + i / 2, k = j / 2 * 2 + i % 2;
      const uint8_t code = bytes[row * 4 + kByteOf[k]];
      const float magnitude = (code & 0x7f) == 0x7f ? 480.0f : to_float(f8e4m3{uint8_t(code & 0x7f)});
      return (code & 0x80 ? -magnitude : magnitude) * 0x1p-8f;
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
