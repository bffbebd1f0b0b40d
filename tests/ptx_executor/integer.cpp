// Integer arithmetic. PTX ISA, "Integer Arithmetic Instructions": results wrap; mul gives the low, the high or (wide) all
// bits; division by zero gives an unspecified value, so it is a fault here.
#include <algorithm>
#include <limits>
#include <type_traits>

#include "ptx_executor/forms.h"
#include "ptx_executor/warp.h"

namespace llama4rt::ptx_executor {
namespace {

template <class T>
struct Names;
template <>
struct Names<int16_t> {
  static constexpr const char* kName = "s16";
  static constexpr Type kType = kS16;
  using Wide = int32_t;
};
template <>
struct Names<uint16_t> {
  static constexpr const char* kName = "u16";
  static constexpr Type kType = kU16;
  using Wide = uint32_t;
};
template <>
struct Names<int32_t> {
  static constexpr const char* kName = "s32";
  static constexpr Type kType = kS32;
  using Wide = int64_t;
};
template <>
struct Names<uint32_t> {
  static constexpr const char* kName = "u32";
  static constexpr Type kType = kU32;
  using Wide = uint64_t;
};
template <>
struct Names<int64_t> {
  static constexpr const char* kName = "s64";
  static constexpr Type kType = kS64;
};
template <>
struct Names<uint64_t> {
  static constexpr const char* kName = "u64";
  static constexpr Type kType = kU64;
};

// Unsigned and at least 32 bits wide: what wraps without being undefined in C++.
template <class T>
using Wrapping = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;

template <class T>
void run_add(Warp& w, const Instruction& i) {
  map_lanes<T, T, T>(w, i, [](T a, T b) { return T(Wrapping<T>(a) + Wrapping<T>(b)); });
}
template <class T>
void run_sub(Warp& w, const Instruction& i) {
  map_lanes<T, T, T>(w, i, [](T a, T b) { return T(Wrapping<T>(a) - Wrapping<T>(b)); });
}
template <class T>
void run_mul_lo(Warp& w, const Instruction& i) {
  map_lanes<T, T, T>(w, i, [](T a, T b) { return T(Wrapping<T>(a) * Wrapping<T>(b)); });
}
template <class T>
void run_mul_hi(Warp& w, const Instruction& i) {
  using Wide = typename Names<T>::Wide;
  map_lanes<T, T, T>(w, i, [](T a, T b) { return T((Wide(a) * Wide(b)) >> (8 * sizeof(T))); });
}
template <class T>
void run_mul_wide(Warp& w, const Instruction& i) {
  using Wide = typename Names<T>::Wide;
  map_lanes<Wide, T, T>(w, i, [](T a, T b) { return Wide(Wide(a) * Wide(b)); });
}
template <class T>
void run_mad_lo(Warp& w, const Instruction& i) {
  map_lanes<T, T, T, T>(w, i,
                        [](T a, T b, T c) { return T(Wrapping<T>(a) * Wrapping<T>(b) + Wrapping<T>(c)); });
}
template <class T>
void run_mad_wide(Warp& w, const Instruction& i) {
  using Wide = typename Names<T>::Wide;
  map_lanes<Wide, T, T, Wide>(
      w, i, [](T a, T b, Wide c) { return Wide(Wrapping<Wide>(Wide(a) * Wide(b)) + Wrapping<Wide>(c)); });
}

template <class T>
bool overflows(T a, T b) {
  return std::is_signed_v<T> && a == std::numeric_limits<T>::min() && b == T(-1);
}
template <class T>
void check_divisors(Warp& w, const Instruction& i) {
  for_each_lane(w.mask, [&](int lane) {
    if (w.lanes<T>(i.b)[lane] == 0) w.fault(lane, "divides by zero");
  });
}
template <class T>
void run_div(Warp& w, const Instruction& i) {
  check_divisors<T>(w, i);
  map_lanes<T, T, T>(w, i, [](T a, T b) { return overflows(a, b) ? a : T(a / b); });
}
template <class T>
void run_rem(Warp& w, const Instruction& i) {
  check_divisors<T>(w, i);
  map_lanes<T, T, T>(w, i, [](T a, T b) { return overflows(a, b) ? T(0) : T(a % b); });
}

template <class T>
void run_min(Warp& w, const Instruction& i) {
  map_lanes<T, T, T>(w, i, [](T a, T b) { return std::min(a, b); });
}
template <class T>
void run_max(Warp& w, const Instruction& i) {
  map_lanes<T, T, T>(w, i, [](T a, T b) { return std::max(a, b); });
}
template <class T>
void run_neg(Warp& w, const Instruction& i) {
  map_lanes<T, T>(w, i, [](T a) { return T(Wrapping<T>(0) - Wrapping<T>(a)); });
}
template <class T>
void run_abs(Warp& w, const Instruction& i) {
  map_lanes<T, T>(w, i, [](T a) { return a < 0 ? T(Wrapping<T>(0) - Wrapping<T>(a)) : a; });
}

template <class T>
void add_type(Forms& f) {
  const Type t = Names<T>::kType;
  const auto name = [](const char* op) { return std::string(op) + "." + Names<T>::kName; };
  f.add(name("add"), {t, t, t}, run_add<T>);
  f.add(name("sub"), {t, t, t}, run_sub<T>);
  f.add(name("mul.lo"), {t, t, t}, run_mul_lo<T>);
  f.add(name("mad.lo"), {t, t, t, t}, run_mad_lo<T>);
  f.add(name("div"), {t, t, t}, run_div<T>);
  f.add(name("rem"), {t, t, t}, run_rem<T>);
  f.add(name("min"), {t, t, t}, run_min<T>);
  f.add(name("max"), {t, t, t}, run_max<T>);
  if constexpr (sizeof(T) < 8) {
    f.add(name("mul.hi"), {t, t, t}, run_mul_hi<T>);
    const Type wide = Names<typename Names<T>::Wide>::kType;
    f.add(name("mul.wide"), {wide, t, t}, run_mul_wide<T>);
    f.add(name("mad.wide"), {wide, t, t, wide}, run_mad_wide<T>);
  }
  if constexpr (std::is_signed_v<T>) {
    f.add(name("neg"), {t, t}, run_neg<T>);
    f.add(name("abs"), {t, t}, run_abs<T>);
  }
}

}  // namespace

void add_integer_forms(Forms& f) {
  add_type<int16_t>(f);
  add_type<uint16_t>(f);
  add_type<int32_t>(f);
  add_type<uint32_t>(f);
  add_type<int64_t>(f);
  add_type<uint64_t>(f);
}

}  // namespace llama4rt::ptx_executor
