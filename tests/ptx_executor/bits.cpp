// Logic, shifts and bit fields. PTX ISA, "Logic and Shift Instructions": shift amounts beyond the width count as the
// width; lop3 looks its result up in a table of 8 bits, a being the highest bit of the index.
#include <algorithm>
#include <bit>
#include <type_traits>

#include "ptx_executor/forms.h"
#include "ptx_executor/warp.h"

namespace llama4rt::ptx_executor {
namespace {

template <class T>
void run_and(Warp& w, const Instruction& i) {
  map_lanes<T, T, T>(w, i, [](T a, T b) { return T(a & b); });
}
template <class T>
void run_or(Warp& w, const Instruction& i) {
  map_lanes<T, T, T>(w, i, [](T a, T b) { return T(a | b); });
}
template <class T>
void run_xor(Warp& w, const Instruction& i) {
  map_lanes<T, T, T>(w, i, [](T a, T b) { return T(a ^ b); });
}
template <class T>
void run_not(Warp& w, const Instruction& i) {
  map_lanes<T, T>(w, i, [](T a) { return T(~a); });
}

template <class T>
void run_shl(Warp& w, const Instruction& i) {
  constexpr uint32_t kBits = 8 * sizeof(T);
  map_lanes<T, T, uint32_t>(w, i, [](T a, uint32_t n) { return n >= kBits ? T(0) : T(a << n); });
}
// Of signed types the sign comes in.
template <class T>
void run_shr(Warp& w, const Instruction& i) {
  constexpr uint32_t kBits = 8 * sizeof(T);
  map_lanes<T, T, uint32_t>(w, i, [](T a, uint32_t n) {
    if constexpr (std::is_signed_v<T>) return T(a >> std::min(n, kBits - 1));
    return n >= kBits ? T(0) : T(a >> n);
  });
}

template <class T>
void run_popc(Warp& w, const Instruction& i) {
  map_lanes<uint32_t, T>(w, i, [](T a) { return uint32_t(std::popcount(a)); });
}
template <class T>
void run_clz(Warp& w, const Instruction& i) {
  map_lanes<uint32_t, T>(w, i, [](T a) { return uint32_t(std::countl_zero(a)); });
}

// bfi d, a, b, c, d: `a` put into `b` at bit c, d bits wide; only the low 8 bits of both count.
template <class T>
void run_bfi(Warp& w, const Instruction& i) {
  constexpr uint32_t kBits = 8 * sizeof(T);
  const Unit start = w.program->pool[size_t(i.imm)], length = w.program->pool[size_t(i.imm) + 1];
  const T *a = w.lanes<T>(i.a), *b = w.lanes<T>(i.b);
  T* d = w.lanes<T>(i.d);
  for_each_lane(w.mask, [&](int lane) {
    const uint32_t at = w.lanes<uint32_t>(start)[lane] & 0xffu,
                   bits = w.lanes<uint32_t>(length)[lane] & 0xffu;
    const uint32_t taken = at >= kBits ? 0 : std::min(bits, kBits - at);
    const T ones = taken == kBits ? T(~T(0)) : T((T(1) << taken) - 1);
    d[lane] = taken == 0 ? b[lane] : T((b[lane] & ~T(ones << at)) | T((a[lane] & ones) << at));
  });
}
template <class T>
void build_bfi(Decoder& d, Instruction& i) {
  constexpr Type kType{Type::Kind::kBits, 8 * sizeof(T)};
  d.operands(5);
  i.a = d.source(1, kType);
  i.b = d.source(2, kType);
  i.imm = d.put({d.source(3, kU32), d.source(4, kU32)});
  i.d = d.destination(0, kType);
  i.run = run_bfi<T>;
}

void run_lop3(Warp& w, const Instruction& i) {
  const auto table = uint32_t(i.imm);
  map_lanes<uint32_t, uint32_t, uint32_t, uint32_t>(w, i, [table](uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d = 0;
    for (uint32_t index = 0; index < 8; ++index) {
      const uint32_t here =
          ((index & 4u) != 0 ? a : ~a) & ((index & 2u) != 0 ? b : ~b) & ((index & 1u) != 0 ? c : ~c);
      d |= (table >> index & 1u) != 0 ? here : 0;
    }
    return d;
  });
}
void build_lop3(Decoder& d, Instruction& i) {
  d.operands(5);
  i.a = d.source(1, kB32);
  i.b = d.source(2, kB32);
  i.c = d.source(3, kB32);
  const uint64_t table = d.literal(4);
  if (table > 255) d.refuse("a table has 8 bits");
  i.imm = int64_t(table);
  i.d = d.destination(0, kB32);
  i.run = run_lop3;
}

// prmt d, a, b, c without a mode: each byte of d is the one of the eight bytes a (0 to 3) and b (4 to 7) that three bits
// of c name, or, where the fourth is set, that byte's sign eight times.
void run_prmt(Warp& w, const Instruction& i) {
  map_lanes<uint32_t, uint32_t, uint32_t, uint32_t>(w, i, [](uint32_t a, uint32_t b, uint32_t c) {
    const uint64_t bytes = uint64_t(b) << 32 | a;
    uint32_t d = 0;
    for (uint32_t byte = 0; byte < 4; ++byte) {
      const uint32_t control = c >> 4 * byte & 15u;
      const auto picked = uint32_t(bytes >> 8 * (control & 7u)) & 0xffu;
      const uint32_t sign = (picked & 0x80u) != 0 ? 0xffu : 0u;
      d |= ((control & 8u) != 0 ? sign : picked) << 8 * byte;
    }
    return d;
  });
}

template <class T>
void add_width(Forms& f, const std::string& bits) {
  const Type t{Type::Kind::kBits, 8 * sizeof(T)};
  f.add("and.b" + bits, {t, t, t}, run_and<T>);
  f.add("or.b" + bits, {t, t, t}, run_or<T>);
  f.add("xor.b" + bits, {t, t, t}, run_xor<T>);
  f.add("not.b" + bits, {t, t}, run_not<T>);
  f.add("shl.b" + bits, {t, t, kU32}, run_shl<T>);
  f.add("shr.b" + bits, {t, t, kU32}, run_shr<T>);
  f.add("shr.u" + bits, {t, t, kU32}, run_shr<T>);
  f.add("shr.s" + bits, {t, t, kU32}, run_shr<std::make_signed_t<T>>);
  if constexpr (sizeof(T) >= 4) {
    f.add("popc.b" + bits, {kU32, t}, run_popc<T>);
    f.add("clz.b" + bits, {kU32, t}, run_clz<T>);
    f.add("bfi.b" + bits, build_bfi<T>);
  }
}

}  // namespace

void add_bit_forms(Forms& f) {
  add_width<uint16_t>(f, "16");
  add_width<uint32_t>(f, "32");
  add_width<uint64_t>(f, "64");
  f.add("lop3.b32", build_lop3);
  f.add("prmt.b32", {kB32, kB32, kB32, kB32}, run_prmt);
}

}  // namespace llama4rt::ptx_executor
