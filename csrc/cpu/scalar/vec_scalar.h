// Vec as an array: the meaning of every other Vec.
#pragma once

#include "cpu/generic/lanes.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

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
  // p[0] in the even lanes, p[1] in the odd ones.
  static Vec set1_pair(const float* p) {
    return make([=](int i) { return p[i % 2]; });
  }
  static Vec load(const float* p) {
    return make([=](int i) { return p[i]; });
  }
  static Vec load(const bf16* p) {
    return make([=](int i) { return to_float(p[i]); });
  }
  static Vec load(const fp16* p) {
    return make([=](int i) { return to_float(p[i]); });
  }
  static Vec load(const int8_t* p) {
    return make([=](int i) { return float(p[i]); });
  }
  // But the two NaN codes as 480.
  static Vec load(const f8e4m3* p) {
    return make([=](int i) {
      const float magnitude =
          (p[i].bits & 0x7f) == 0x7f ? 480.0f : to_float(f8e4m3{uint8_t(p[i].bits & 0x7f)});
      return p[i].bits & 0x80 ? -magnitude : magnitude;
    });
  }
  // The first n < 16 lanes; the others are zero and memory behind them is not read.
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
// As maxps and minps: the second operand when one is NaN.
inline Vec max(Vec a, Vec b) {
  return Vec::make([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Vec min(Vec a, Vec b) {
  return Vec::make([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline Vec even_lanes(Vec a) {  // x0 x0 x2 x2 ...
  return Vec::make([&](int i) { return a.v[i & ~1]; });
}
inline Vec odd_lanes(Vec a) {  // x1 x1 x3 x3 ...
  return Vec::make([&](int i) { return a.v[i | 1]; });
}
inline Vec swap_pairs(Vec a) {
  return Vec::make([&](int i) { return a.v[i ^ 1]; });
}
// The sums of neighbouring lanes, those of a first.
inline Vec sum_pairs(Vec a, Vec b) {
  return Vec::make(
      [&](int i) { return i < 8 ? a.v[2 * i] + a.v[2 * i + 1] : b.v[2 * i - 16] + b.v[2 * i - 15]; });
}
// a * b - c in even lanes, a * b + c in odd ones; one rounding.
inline Vec fma_alternate(Vec a, Vec b, Vec c) {
  return Vec::make([&](int i) { return std::fma(a.v[i], b.v[i], i % 2 == 0 ? -c.v[i] : c.v[i]); });
}

// How much the registers hold: rows of activations that are multiplied at once, and, of attention, rows times
// vectors of dimensions whose sums stay in registers while values stream by.
inline constexpr int kTokenTile = 4;
inline constexpr int kValueRows = 2, kValueVecs = 2;
// To measure the machine: more chains than latency (4 or 5) times ports (2) registers, yet no spills.
inline constexpr int kFmaChains = 6;

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
