// Conversions. PTX ISA, "cvt": integers are extended by the sign of the source's type or cut off; floats become integers
// towards zero (.rzi) and stay in range. A register may be wider than the type: of a source the low bits count, a
// destination is filled by the sign of its type.
#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>

#include "ptx_executor/forms.h"
#include "ptx_executor/rounding.h"
#include "ptx_executor/warp.h"

namespace llama4rt::ptx_executor {
namespace {

// Of a register with `bits`, the low ones as T.
template <class T>
T low_bits(Warp& w, Unit u, int bits, int lane) {
  using Bits = std::make_unsigned_t<T>;
  if (bits == 64) return T(Bits(w.lanes<uint64_t>(u)[lane]));
  if (bits == 32) return T(Bits(w.lanes<uint32_t>(u)[lane]));
  return T(Bits(w.lanes<uint16_t>(u)[lane]));
}
template <class T>
void store_wide(Warp& w, Unit u, int bits, int lane, T value) {
  if (bits == 64)
    w.lanes<uint64_t>(u)[lane] = uint64_t(int64_t(value));
  else if (bits == 32)
    w.lanes<uint32_t>(u)[lane] = uint32_t(int32_t(value));
  else
    w.lanes<uint16_t>(u)[lane] = uint16_t(value);
}

template <class D, class S>
void run_exact(Warp& w, const Instruction& i) {
  map_lanes<D, S>(w, i, [](S a) { return D(a); });
}
// imm: bits of the destination register, and of the source times 256.
template <class D, class S>
void run_wide(Warp& w, const Instruction& i) {
  const int d_bits = int(i.imm & 255), s_bits = int(i.imm >> 8);
  for_each_lane(w.mask,
                [&](int lane) { store_wide<D>(w, i.d, d_bits, lane, D(low_bits<S>(w, i.a, s_bits, lane))); });
}

template <class T>
using BitsOf = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;

template <class T>
constexpr Type type_of() {
  return {std::is_signed_v<T> ? Type::Kind::kSigned : Type::Kind::kUnsigned, 8 * sizeof(T)};
}

template <class D, class S>
void build_integer(Decoder& d, Instruction& i) {
  constexpr Type kFrom = type_of<S>(), kTo = type_of<D>();
  d.operands(2);
  int s_bits = 8 * sizeof(S), d_bits = 0;
  if (const Operand& o = d.operand(1); o.kind == Operand::Kind::kRegister) {
    i.a = d.wide_source(o, kFrom);
    s_bits = d.register_bits(o);
  } else {
    i.a = d.source(1, kFrom);
    if (kFrom.bits < 16) d.refuse("an immediate of 8 bits");
  }
  i.d = d.wide_destination(d.operand(0), kTo, d_bits);
  i.imm = d_bits | s_bits << 8;
  const bool exact = d_bits == kTo.bits && s_bits == kFrom.bits;
  i.run = exact ? run_exact<D, S> : run_wide<D, S>;
}

// Towards zero, kept in range. NaN gives 0, but 1 << 63 where a side has 64 bits.
template <class D, class S>
void run_rzi(Warp& w, const Instruction& i) {
  map_lanes<D, S>(w, i, [](S a) {
    constexpr bool kHas64 = sizeof(D) == 8 || sizeof(S) == 8;
    if (!(a == a)) return kHas64 ? D(std::make_unsigned_t<D>(1) << (8 * sizeof(D) - 1)) : D(0);
    // 2^(bits) is exact in either float; the largest integer may not be.
    const S limit = std::ldexp(S(1), std::numeric_limits<D>::digits);
    if (a >= limit) return std::numeric_limits<D>::max();
    if (std::is_signed_v<D> ? a <= -limit : a <= S(-1)) return std::numeric_limits<D>::min();
    return D(a);
  });
}
// A NaN stays one and loses what else it says.
template <class D, class S>
void run_rn(Warp& w, const Instruction& i) {
  map_lanes<D, S>(
      w, i, [](S a) { return a == a ? D(a) : std::bit_cast<D>(std::numeric_limits<BitsOf<D>>::max() >> 1); });
}

// A half is 1 bit of sign, 5 of exponent with bias 15, 10 of mantissa: every one is a float. NaN becomes the usual one.
void run_half(Warp& w, const Instruction& i) {
  map_lanes<float, uint16_t>(w, i, [](uint16_t half) {
    const int exponent = half >> 10 & 31, mantissa = half & 1023;
    if (exponent == 31 && mantissa != 0) return std::bit_cast<float>(0x7fffffffu);
    const float magnitude = exponent == 31  ? std::numeric_limits<float>::infinity()
                            : exponent == 0 ? std::ldexp(float(mantissa), -24)
                                            : std::ldexp(float(1024 + mantissa), exponent - 25);
    return (half >> 15) != 0 ? -magnitude : magnitude;
  });
}

// The first source becomes the high half.
void run_bf16x2(Warp& w, const Instruction& i) {
  map_lanes<uint32_t, float, float>(w, i, [](float high, float low) {
    return uint32_t(to_bf16_once(double(high))) << 16 | uint32_t(to_bf16_once(double(low)));
  });
}

template <class S, class... D>
void add_integers(Forms& f, const std::string& from) {
  const auto add = [&]<class To>(To) {
    const std::string to = std::string(std::is_signed_v<To> ? "s" : "u") + std::to_string(8 * sizeof(To));
    if (to != from) f.add("cvt." + to + "." + from, build_integer<To, S>);
  };
  (add(D()), ...);
}
template <class S>
void add_all_integers(Forms& f) {
  const std::string from = std::string(std::is_signed_v<S> ? "s" : "u") + std::to_string(8 * sizeof(S));
  add_integers<S, int8_t, uint8_t, int16_t, uint16_t, int32_t, uint32_t, int64_t, uint64_t>(f, from);
}
template <class I>
void add_float_and(Forms& f) {
  const Type t = type_of<I>();
  const std::string name = std::string(std::is_signed_v<I> ? "s" : "u") + std::to_string(8 * sizeof(I));
  f.add("cvt.rzi." + name + ".f32", {t, kF32}, run_rzi<I, float>);
  f.add("cvt.rzi." + name + ".f64", {t, kF64}, run_rzi<I, double>);
  f.add("cvt.rn.f32." + name, {kF32, t}, run_rn<float, I>);
  f.add("cvt.rn.f64." + name, {kF64, t}, run_rn<double, I>);
}

}  // namespace

void add_conversion_forms(Forms& f) {
  add_all_integers<int8_t>(f);
  add_all_integers<uint8_t>(f);
  add_all_integers<int16_t>(f);
  add_all_integers<uint16_t>(f);
  add_all_integers<int32_t>(f);
  add_all_integers<uint32_t>(f);
  add_all_integers<int64_t>(f);
  add_all_integers<uint64_t>(f);
  add_float_and<int32_t>(f);
  add_float_and<uint32_t>(f);
  add_float_and<int64_t>(f);
  add_float_and<uint64_t>(f);
  f.add("cvt.f64.f32", {kF64, kF32}, run_rn<double, float>);
  f.add("cvt.rn.f32.f64", {kF32, kF64}, run_rn<float, double>);
  f.add("cvt.rn.f32.s16", {kF32, kS16}, run_rn<float, int16_t>);
  f.add("cvt.f32.f16", {kF32, kB16}, run_half);
  f.add("cvt.rn.bf16x2.f32", {kB32, kF32, kF32}, run_bf16x2);
}

}  // namespace llama4rt::ptx_executor
