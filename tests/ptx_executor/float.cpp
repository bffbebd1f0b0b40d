// Floating point. PTX ISA, "Floating Point Instructions": round to nearest even, subnormals kept (no .ftz anywhere), every
// NaN result canonical. A mul or add without .rn may be fused by the assembler; here each rounds by itself.
#include <algorithm>
#include <bit>
#include <cmath>

#include "ptx_executor/forms.h"
#include "ptx_executor/rounding.h"
#include "ptx_executor/warp.h"

namespace llama4rt::ptx_executor {
namespace {

double canonical(double x) { return x == x ? x : std::bit_cast<double>(uint64_t(0x7fffffffffffffff)); }
using ptx_executor::canonical;

template <class T>
void run_add(Warp& w, const Instruction& i) {
  map_lanes<T, T, T>(w, i, [](T a, T b) { return canonical(a + b); });
}
template <class T>
void run_sub(Warp& w, const Instruction& i) {
  map_lanes<T, T, T>(w, i, [](T a, T b) { return canonical(a - b); });
}
template <class T>
void run_mul(Warp& w, const Instruction& i) {
  map_lanes<T, T, T>(w, i, [](T a, T b) { return canonical(a * b); });
}
template <class T>
void run_div(Warp& w, const Instruction& i) {
  map_lanes<T, T, T>(w, i, [](T a, T b) { return canonical(a / b); });
}
template <class T>
void run_rcp(Warp& w, const Instruction& i) {
  map_lanes<T, T>(w, i, [](T a) { return canonical(T(1) / a); });
}
void run_fma(Warp& w, const Instruction& i) { map_lanes<float, float, float, float>(w, i, fused); }

// The sign bit alone, of NaN too.
template <class T, class Bits>
void run_neg(Warp& w, const Instruction& i) {
  map_lanes<Bits, Bits>(w, i, [](Bits a) { return Bits(a ^ (Bits(1) << (8 * sizeof(T) - 1))); });
}
template <class T, class Bits>
void run_abs(Warp& w, const Instruction& i) {
  map_lanes<Bits, Bits>(w, i, [](Bits a) { return Bits(a & ~(Bits(1) << (8 * sizeof(T) - 1))); });
}

// The other one when one is NaN; -0 is below +0.
template <class T>
void run_max(Warp& w, const Instruction& i) {
  map_lanes<T, T, T>(w, i, [](T a, T b) {
    if (!(a == a)) return canonical(b);
    if (!(b == b)) return a;
    if (a == b) return std::signbit(a) ? b : a;
    return a > b ? a : b;
  });
}
template <class T>
void run_min(Warp& w, const Instruction& i) {
  map_lanes<T, T, T>(w, i, [](T a, T b) {
    if (!(a == a)) return canonical(b);
    if (!(b == b)) return a;
    if (a == b) return std::signbit(a) ? a : b;
    return a < b ? a : b;
  });
}

// Approximations: the nearest float, which is within what the ISA promises.
void run_ex2(Warp& w, const Instruction& i) {
  map_lanes<float, float>(w, i, [](float a) { return canonical(std::exp2(a)); });
}
void run_rsqrt(Warp& w, const Instruction& i) {
  map_lanes<float, float>(w, i, [](float a) { return canonical(float(1.0 / std::sqrt(double(a)))); });
}

void run_fma_bf16x2(Warp& w, const Instruction& i) {
  map_lanes<uint32_t, uint32_t, uint32_t, uint32_t>(w, i, [](uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d = 0;
    for (const int shift : {0, 16}) {
      const auto half = [shift](uint32_t pair) { return double(from_bf16(pair >> shift & 0xffffu)); };
      d |= uint32_t(to_bf16_once(sum_to_odd(half(a) * half(b), half(c)))) << shift;
    }
    return d;
  });
}

template <class T, class Bits>
void add_type(Forms& f, const std::string& name, Type t) {
  for (const std::string& rounding : {std::string(), std::string(".rn")}) {
    f.add("add" + rounding + name, {t, t, t}, run_add<T>);
    f.add("sub" + rounding + name, {t, t, t}, run_sub<T>);
    f.add("mul" + rounding + name, {t, t, t}, run_mul<T>);
  }
  f.add("div.rn" + name, {t, t, t}, run_div<T>);
  f.add("rcp.rn" + name, {t, t}, run_rcp<T>);
  f.add("neg" + name, {t, t}, run_neg<T, Bits>);
  f.add("abs" + name, {t, t}, run_abs<T, Bits>);
  f.add("min" + name, {t, t, t}, run_min<T>);
  f.add("max" + name, {t, t, t}, run_max<T>);
}

}  // namespace

void add_float_forms(Forms& f) {
  add_type<float, uint32_t>(f, ".f32", kF32);
  add_type<double, uint64_t>(f, ".f64", kF64);
  f.add("fma.rn.f32", {kF32, kF32, kF32, kF32}, run_fma);
  f.add("ex2.approx.f32", {kF32, kF32}, run_ex2);
  f.add("rsqrt.approx.f32", {kF32, kF32}, run_rsqrt);
  f.add("fma.rn.bf16x2", {kB32, kB32, kB32, kB32}, run_fma_bf16x2);
}

}  // namespace llama4rt::ptx_executor
