// Predicates. PTX ISA, "Comparison and Selection Instructions": of floats, the plain comparisons are false when a side is
// NaN, those with u are true then.
#include <type_traits>

#include "ptx_executor/forms.h"
#include "ptx_executor/warp.h"

namespace llama4rt::ptx_executor {
namespace {

template <class T, class F>
void compare(Warp& w, const Instruction& i, F f) {
  const T *a = w.lanes<T>(i.a), *b = w.lanes<T>(i.b);
  uint32_t result = 0;
  for (int lane = 0; lane < kLanes; ++lane) result |= uint32_t(f(a[lane], b[lane])) << lane;
  uint32_t& d = w.predicate(i.d);
  d = (d & ~w.mask) | (result & w.mask);
}

template <class T>
void run_eq(Warp& w, const Instruction& i) {
  compare<T>(w, i, [](T a, T b) { return a == b; });
}
// Of floats: ordered and not equal.
template <class T>
void run_ne(Warp& w, const Instruction& i) {
  compare<T>(w, i, [](T a, T b) { return std::is_floating_point_v<T> ? a < b || a > b : a != b; });
}
template <class T>
void run_lt(Warp& w, const Instruction& i) {
  compare<T>(w, i, [](T a, T b) { return a < b; });
}
template <class T>
void run_le(Warp& w, const Instruction& i) {
  compare<T>(w, i, [](T a, T b) { return a <= b; });
}
template <class T>
void run_gt(Warp& w, const Instruction& i) {
  compare<T>(w, i, [](T a, T b) { return a > b; });
}
template <class T>
void run_ge(Warp& w, const Instruction& i) {
  compare<T>(w, i, [](T a, T b) { return a >= b; });
}
template <class T>
void run_equ(Warp& w, const Instruction& i) {
  compare<T>(w, i, [](T a, T b) { return !(a < b || a > b); });
}
template <class T>
void run_neu(Warp& w, const Instruction& i) {
  compare<T>(w, i, [](T a, T b) { return !(a == b); });
}
template <class T>
void run_ltu(Warp& w, const Instruction& i) {
  compare<T>(w, i, [](T a, T b) { return !(a >= b); });
}
template <class T>
void run_leu(Warp& w, const Instruction& i) {
  compare<T>(w, i, [](T a, T b) { return !(a > b); });
}
template <class T>
void run_gtu(Warp& w, const Instruction& i) {
  compare<T>(w, i, [](T a, T b) { return !(a <= b); });
}
template <class T>
void run_geu(Warp& w, const Instruction& i) {
  compare<T>(w, i, [](T a, T b) { return !(a < b); });
}
template <class T>
void run_num(Warp& w, const Instruction& i) {
  compare<T>(w, i, [](T a, T b) { return a == a && b == b; });
}
template <class T>
void run_nan(Warp& w, const Instruction& i) {
  compare<T>(w, i, [](T a, T b) { return !(a == a && b == b); });
}

template <class T>
void run_select(Warp& w, const Instruction& i) {
  const T *a = w.lanes<T>(i.a), *b = w.lanes<T>(i.b);
  T* d = w.lanes<T>(i.d);
  const uint32_t choose = w.predicate(i.c);
  for_each_lane(w.mask, [&](int lane) { d[lane] = (choose >> lane & 1u) != 0 ? a[lane] : b[lane]; });
}

template <class F>
void combine(Warp& w, const Instruction& i, F f) {
  uint32_t& d = w.predicate(i.d);
  d = (d & ~w.mask) | (f() & w.mask);
}
void run_and(Warp& w, const Instruction& i) {
  combine(w, i, [&] { return w.predicate(i.a) & w.predicate(i.b); });
}
void run_or(Warp& w, const Instruction& i) {
  combine(w, i, [&] { return w.predicate(i.a) | w.predicate(i.b); });
}
void run_xor(Warp& w, const Instruction& i) {
  combine(w, i, [&] { return w.predicate(i.a) ^ w.predicate(i.b); });
}
void run_not(Warp& w, const Instruction& i) {
  combine(w, i, [&] { return ~w.predicate(i.a); });
}
void run_copy(Warp& w, const Instruction& i) {
  combine(w, i, [&] { return w.predicate(i.a); });
}

template <class T>
void add_equality(Forms& f, const std::string& name, Type t) {
  f.add("setp.eq." + name, {kPredicate, t, t}, run_eq<T>);
  f.add("setp.ne." + name, {kPredicate, t, t}, run_ne<T>);
}
template <class T>
void add_order(Forms& f, const std::string& name, Type t) {
  add_equality<T>(f, name, t);
  f.add("setp.lt." + name, {kPredicate, t, t}, run_lt<T>);
  f.add("setp.le." + name, {kPredicate, t, t}, run_le<T>);
  f.add("setp.gt." + name, {kPredicate, t, t}, run_gt<T>);
  f.add("setp.ge." + name, {kPredicate, t, t}, run_ge<T>);
}
template <class T>
void add_unordered(Forms& f, const std::string& name, Type t) {
  add_order<T>(f, name, t);
  f.add("setp.equ." + name, {kPredicate, t, t}, run_equ<T>);
  f.add("setp.neu." + name, {kPredicate, t, t}, run_neu<T>);
  f.add("setp.ltu." + name, {kPredicate, t, t}, run_ltu<T>);
  f.add("setp.leu." + name, {kPredicate, t, t}, run_leu<T>);
  f.add("setp.gtu." + name, {kPredicate, t, t}, run_gtu<T>);
  f.add("setp.geu." + name, {kPredicate, t, t}, run_geu<T>);
  f.add("setp.num." + name, {kPredicate, t, t}, run_num<T>);
  f.add("setp.nan." + name, {kPredicate, t, t}, run_nan<T>);
}
template <class T>
void add_selects(Forms& f, const std::string& bits) {
  for (const char* kind : {"b", "u", "s"}) {
    const Type t = type_named(kind + bits);
    f.add("selp." + (kind + bits), {t, t, t, kPredicate}, run_select<T>);
  }
}

}  // namespace

void add_predicate_forms(Forms& f) {
  add_equality<uint16_t>(f, "b16", kB16);
  add_equality<uint32_t>(f, "b32", kB32);
  add_equality<uint64_t>(f, "b64", kB64);
  add_order<uint16_t>(f, "u16", kU16);
  add_order<uint32_t>(f, "u32", kU32);
  add_order<uint64_t>(f, "u64", kU64);
  add_order<int16_t>(f, "s16", kS16);
  add_order<int32_t>(f, "s32", kS32);
  add_order<int64_t>(f, "s64", kS64);
  add_unordered<float>(f, "f32", kF32);
  add_unordered<double>(f, "f64", kF64);
  add_selects<uint16_t>(f, "16");
  add_selects<uint32_t>(f, "32");
  add_selects<uint64_t>(f, "64");
  f.add("selp.f32", {kF32, kF32, kF32, kPredicate}, run_select<uint32_t>);
  f.add("selp.f64", {kF64, kF64, kF64, kPredicate}, run_select<uint64_t>);
  f.add("and.pred", {kPredicate, kPredicate, kPredicate}, run_and);
  f.add("or.pred", {kPredicate, kPredicate, kPredicate}, run_or);
  f.add("xor.pred", {kPredicate, kPredicate, kPredicate}, run_xor);
  f.add("not.pred", {kPredicate, kPredicate}, run_not);
  f.add("mov.pred", {kPredicate, kPredicate}, run_copy);
}

}  // namespace llama4rt::ptx_executor
