// Integers and bits, lane by lane. The rules compute in 64 bits with the sign spelled out, and cut off.
#include <algorithm>
#include <bit>

#include "ptx/op_cases.h"

namespace llama4rt::test {
namespace {

using namespace ptx_executor;  // NOLINT: types

int64_t as_signed(uint64_t x, int bits) {
  const uint64_t sign = uint64_t(1) << (bits - 1);
  return int64_t((x ^ sign) - sign);
}

void add_arithmetic(std::vector<OpCase>& cases, Type t) {
  const int bits = t.bits;
  const bool is_signed = t.kind == Type::Kind::kSigned;
  const std::string type = (is_signed ? "s" : "u") + std::to_string(bits);
  const auto value = [=](uint64_t x) { return is_signed ? as_signed(x, bits) : int64_t(x); };
  const auto less = [=](uint64_t a, uint64_t b) { return is_signed ? value(a) < value(b) : a < b; };
  const auto add = [&](const std::string& op, std::vector<Type> types, auto rule) {
    cases.push_back({op + "." + type, std::move(types), rule});
  };
  add("add", {t, t, t}, [](uint64_t a, uint64_t b, uint64_t) { return a + b; });
  add("sub", {t, t, t}, [](uint64_t a, uint64_t b, uint64_t) { return a - b; });
  add("mul.lo", {t, t, t}, [](uint64_t a, uint64_t b, uint64_t) { return a * b; });
  add("mad.lo", {t, t, t, t}, [](uint64_t a, uint64_t b, uint64_t c) { return a * b + c; });
  add("min", {t, t, t}, [=](uint64_t a, uint64_t b, uint64_t) { return less(b, a) ? b : a; });
  add("max", {t, t, t}, [=](uint64_t a, uint64_t b, uint64_t) { return less(b, a) ? a : b; });
  if (bits < 64) {
    const Type wide{t.kind, 2 * bits};
    add("mul.hi", {t, t, t}, [=](uint64_t a, uint64_t b, uint64_t) {
      return is_signed ? uint64_t((value(a) * value(b)) >> bits) : a * b >> bits;
    });
    add("mul.wide", {wide, t, t},
        [=](uint64_t a, uint64_t b, uint64_t) { return uint64_t(value(a)) * uint64_t(value(b)); });
    add("mad.wide", {wide, t, t, wide},
        [=](uint64_t a, uint64_t b, uint64_t c) { return uint64_t(value(a)) * uint64_t(value(b)) + c; });
  }
  if (is_signed) {
    add("neg", {t, t}, [](uint64_t a, uint64_t, uint64_t) { return ~a + 1; });
    add("abs", {t, t}, [=](uint64_t a, uint64_t, uint64_t) { return value(a) < 0 ? ~a + 1 : a; });
  }
}

// Divisors that are not zero: the divisor's lowest bit is set first.
void check_division(Type t) {
  const int bits = t.bits;
  const bool is_signed = t.kind == Type::Kind::kSigned;
  const std::string type = (is_signed ? "s" : "u") + std::to_string(bits), b = ".b" + std::to_string(bits);
  const std::string r = bits == 16 ? "%rs" : bits == 32 ? "%r" : "%rd";
  for (const char* op : {"div.", "rem."}) {
    SCOPE(op, type);
    Snippet s;
    const std::vector<uint64_t> x = values_of(t, 1, 32), y = values_of(t, 2, 32);
    s.in.assign(x.begin(), x.begin() + 32);
    s.in.insert(s.in.end(), y.begin(), y.begin() + 32);
    s.body = error_text("mul.wide.u32 %rd3, %r1, 8;\nadd.s64 %rd4, %rd1, %rd3;\nld.global", b, " ", r,
                        "10, [%rd4];\n", "ld.global", b, " ", r, "11, [%rd4+256];\nor", b, " ", r, "11, ", r,
                        "11, 1;\n", op, type, " ", r, "12, ", r, "10, ", r,
                        "11;\nadd.s64 %rd4, %rd2, %rd3;\nmov.u64 %rd5, 0;\n",
                        "st.global.u64 [%rd4], %rd5;\nst.global", b, " [%rd4], ", r, "12;\n");
    const std::vector<uint64_t> found = run_snippet(s);
    for (size_t lane = 0; lane < 32; ++lane) {
      const uint64_t dividend = x[lane], divisor = y[lane] | 1;
      // Schoolbook: magnitudes, then signs.
      const bool n1 = is_signed && as_signed(dividend, bits) < 0,
                 n2 = is_signed && as_signed(divisor, bits) < 0;
      const uint64_t a = n1 ? uint64_t(0) - uint64_t(as_signed(dividend, bits)) : dividend;
      const uint64_t d = n2 ? uint64_t(0) - uint64_t(as_signed(divisor, bits)) : divisor;
      const uint64_t magnitude = op[0] == 'd' ? a / d : a % d;
      const bool negative = op[0] == 'd' ? n1 != n2 : n1;
      const uint64_t mask = bits == 64 ? ~uint64_t(0) : (uint64_t(1) << bits) - 1;
      CHECK_EQ(found[lane], (negative ? uint64_t(0) - magnitude : magnitude) & mask);
    }
  }
}

uint64_t shift_right(uint64_t x, uint64_t n, int bits, bool is_signed) {
  uint64_t out = 0;
  for (int i = 0; i < bits; ++i) {
    const uint64_t from = uint64_t(i) + n;
    const uint64_t bit = from < uint64_t(bits) ? x >> from & 1u : is_signed ? x >> (bits - 1) & 1u : 0;
    out |= bit << i;
  }
  return out;
}

void add_bits(std::vector<OpCase>& cases, int bits) {
  const Type t{Type::Kind::kBits, bits};
  const std::string n = std::to_string(bits);
  cases.push_back({"and.b" + n, {t, t, t}, [](uint64_t a, uint64_t b, uint64_t) { return a & b; }});
  cases.push_back({"or.b" + n, {t, t, t}, [](uint64_t a, uint64_t b, uint64_t) { return a | b; }});
  cases.push_back(
      {"xor.b" + n, {t, t, t}, [](uint64_t a, uint64_t b, uint64_t) { return (a | b) & ~(a & b); }});
  cases.push_back({"not.b" + n, {t, t}, [](uint64_t a, uint64_t, uint64_t) { return ~a; }});
  cases.push_back({"shl.b" + n, {t, t, kU32}, [=](uint64_t a, uint64_t s, uint64_t) {
                     for (uint64_t i = 0; i < std::min<uint64_t>(s, 64); ++i) a *= 2;
                     return a;
                   }});
  for (const char* kind : {"b", "u", "s"})
    cases.push_back({"shr." + (kind + n), {t, t, kU32}, [=](uint64_t a, uint64_t s, uint64_t) {
                       return shift_right(a, s, bits, kind[0] == 's');
                     }});
  if (bits < 32) return;
  cases.push_back({"popc.b" + n, {kU32, t}, [=](uint64_t a, uint64_t, uint64_t) {
                     uint64_t ones = 0;
                     for (int i = 0; i < bits; ++i) ones += a >> i & 1u;
                     return ones;
                   }});
  cases.push_back({"clz.b" + n, {kU32, t}, [=](uint64_t a, uint64_t, uint64_t) {
                     uint64_t zeros = 0;
                     for (int i = bits - 1; i >= 0 && (a >> i & 1u) == 0; --i) ++zeros;
                     return zeros;
                   }});
  // Bit by bit, from the place on, as long as both lengths last.
  for (const auto& [at, length] :
       {std::pair(0, 4), {5, 8}, {28, 16}, {bits - 1, 5}, {200, 3}, {3, 255}, {8, 0}, {259, 4}})
    cases.push_back({"bfi.b" + n,
                     {t, t, t},
                     [=](uint64_t a, uint64_t b, uint64_t) {
                       for (int i = 0; i < (length & 255) && (at & 255) + i < bits; ++i) {
                         const uint64_t place = uint64_t(1) << ((at & 255) + i);
                         b = (a >> i & 1u) != 0 ? b | place : b & ~place;
                       }
                       return b;
                     },
                     error_text(", ", at, ", ", length)});
}

}  // namespace

TEST(arithmetic_follows_the_isa) {
  std::vector<OpCase> cases;
  for (const Type t : {kS16, kU16, kS32, kU32, kS64, kU64}) add_arithmetic(cases, t);
  check_cases(cases);
  for (const Type t : {kS16, kU16, kS32, kU32, kS64, kU64}) check_division(t);
}

TEST(bits_follow_the_isa) {
  std::vector<OpCase> cases;
  for (const int bits : {16, 32, 64}) add_bits(cases, bits);
  for (const uint64_t table : {0xeau, 0xf8u, 0x96u, 0x01u, 0x80u, 0x5au})
    cases.push_back({"lop3.b32",
                     {kB32, kB32, kB32, kB32},
                     [=](uint64_t a, uint64_t b, uint64_t c) {
                       uint64_t d = 0;
                       for (int i = 0; i < 32; ++i)
                         d |= (table >> ((a >> i & 1u) * 4 + (b >> i & 1u) * 2 + (c >> i & 1u)) & 1u) << i;
                       return d;
                     },
                     error_text(", ", table)});
  // Bit by bit: which bit of the eight bytes it is, or the highest of its byte.
  cases.push_back({"prmt.b32", {kB32, kB32, kB32, kB32}, [](uint64_t a, uint64_t b, uint64_t c) {
                     uint64_t d = 0;
                     for (int bit = 0; bit < 32; ++bit) {
                       const uint64_t control = c >> (bit / 8 * 4) & 15u;
                       const uint64_t from =
                           (control & 7u) * 8 + ((control & 8u) != 0 ? 7 : uint64_t(bit) % 8);
                       d |= ((from < 32 ? a >> from : b >> (from - 32)) & 1u) << bit;
                     }
                     return d;
                   }});
  check_cases(cases);
}

TEST(division_by_zero_is_a_fault) {
  CHECK(contains(report_of(Snippet{.body = "mov.u32 %r2, 0;\ndiv.s32 %r3, %r1, %r2;"}), "divides by zero"));
}

}  // namespace llama4rt::test
