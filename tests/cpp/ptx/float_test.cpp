// Floats, conversions and comparisons, lane by lane. The rules compute in long double, or with the bits.
#include <bit>
#include <cmath>

#include "base/dtype.h"
#include "ptx/op_cases.h"

namespace llama4rt::test {
namespace {

using namespace ptx_executor;  // NOLINT: types

float f32(uint64_t bits) { return std::bit_cast<float>(uint32_t(bits)); }
double f64(uint64_t bits) { return std::bit_cast<double>(bits); }
uint64_t bits_of(float x) { return std::isnan(x) ? 0x7fffffffu : std::bit_cast<uint32_t>(x); }
uint64_t bits_of(double x) { return std::isnan(x) ? 0x7fffffffffffffff : std::bit_cast<uint64_t>(x); }

template <class T>
T value(uint64_t bits) {
  if constexpr (sizeof(T) == 4) return f32(bits);
  return f64(bits);
}

template <class T>
void add_arithmetic(std::vector<OpCase>& cases, Type t, const std::string& name) {
  const auto add = [&](const std::string& op, std::vector<Type> types, auto rule) {
    cases.push_back({op + name, std::move(types), rule});
  };
  for (const std::string rounding : {"", ".rn"}) {
    add("add" + rounding, {t, t, t},
        [](uint64_t a, uint64_t b, uint64_t) { return bits_of(value<T>(a) + value<T>(b)); });
    add("sub" + rounding, {t, t, t},
        [](uint64_t a, uint64_t b, uint64_t) { return bits_of(value<T>(a) - value<T>(b)); });
    add("mul" + rounding, {t, t, t},
        [](uint64_t a, uint64_t b, uint64_t) { return bits_of(value<T>(a) * value<T>(b)); });
  }
  add("div.rn", {t, t, t},
      [](uint64_t a, uint64_t b, uint64_t) { return bits_of(value<T>(a) / value<T>(b)); });
  add("rcp.rn", {t, t}, [](uint64_t a, uint64_t, uint64_t) { return bits_of(T(1) / value<T>(a)); });
  const uint64_t sign = uint64_t(1) << (t.bits - 1);
  add("neg", {t, t}, [=](uint64_t a, uint64_t, uint64_t) { return a ^ sign; });
  add("abs", {t, t}, [=](uint64_t a, uint64_t, uint64_t) { return a & ~sign; });
  // NaN gives way; of two zeros the negative one is smaller. As integers floats have an order of their own.
  const auto key = [=](uint64_t x) {
    return (x & sign) != 0 ? int64_t(0) - int64_t(x & ~sign) - 1 : int64_t(x);
  };
  const auto pick = [=](uint64_t a, uint64_t b, bool larger) {
    if (std::isnan(value<T>(a))) return bits_of(value<T>(b));
    if (std::isnan(value<T>(b))) return a;
    return (key(a) < key(b)) == larger ? b : a;
  };
  add("min", {t, t, t}, [=](uint64_t a, uint64_t b, uint64_t) { return pick(a, b, false); });
  add("max", {t, t, t}, [=](uint64_t a, uint64_t b, uint64_t) { return pick(a, b, true); });
}

// To bf16 with ties to even: between the two neighbours of the exact value.
uint64_t to_bf16_bits(long double x) {
  if (std::isnan(x)) return 0x7fff;
  uint64_t best = 0;
  long double best_distance = -1;
  for (const int sign : {0, 1}) {
    // The candidates of this sign around x: from the float below it on.
    const auto start = std::bit_cast<uint32_t>(float(std::abs(x))) >> 16;
    for (int64_t step = -2; step <= 2; ++step) {
      const int64_t magnitude = int64_t(start) + step;
      if (magnitude < 0 || magnitude > 0x7f80) continue;
      // Infinity stands where the next power of two would.
      const long double candidate =
          magnitude == 0x7f80 ? 0x1p128L : (long double)(std::bit_cast<float>(uint32_t(magnitude) << 16));
      const long double distance = std::abs((sign != 0 ? -candidate : candidate) - x);
      const bool signs_agree = (sign != 0) == std::signbit(x);
      if (!signs_agree) continue;
      if (best_distance < 0 || distance < best_distance ||
          (distance == best_distance && magnitude % 2 == 0)) {
        best = uint64_t(magnitude) | (sign != 0 ? 0x8000u : 0u);
        best_distance = distance;
      }
    }
  }
  return std::isinf(x) ? (std::signbit(x) ? 0xff80 : 0x7f80) : best;
}

template <class T>
void add_comparisons(std::vector<OpCase>& cases, Type t, const std::string& name) {
  const auto add = [&](const std::string& op, bool unordered, auto rule) {
    cases.push_back({"setp." + op + name, {kPredicate, t, t}, [=](uint64_t a, uint64_t b, uint64_t) {
                       const T x = value<T>(a), y = value<T>(b);
                       return uint64_t(std::isnan(x) || std::isnan(y) ? unordered : rule(x, y));
                     }});
  };
  for (const bool u : {false, true}) {
    const std::string suffix = u ? "u" : "";
    add("eq" + suffix, u, [](T x, T y) { return x == y; });
    add("ne" + suffix, u, [](T x, T y) { return x != y; });
    add("lt" + suffix, u, [](T x, T y) { return x < y; });
    add("le" + suffix, u, [](T x, T y) { return x <= y; });
    add("gt" + suffix, u, [](T x, T y) { return x > y; });
    add("ge" + suffix, u, [](T x, T y) { return x >= y; });
  }
  add("num", false, [](T, T) { return true; });
  add("nan", true, [](T, T) { return false; });
}

void add_integer_comparisons(std::vector<OpCase>& cases, int bits) {
  for (const char* kind : {"b", "u", "s"}) {
    const Type t = type_named(kind + std::to_string(bits));
    const auto order = [=](uint64_t x) { return kind[0] == 's' ? x ^ uint64_t(1) << (bits - 1) : x; };
    const auto add = [&](const char* op, auto rule) {
      cases.push_back({std::string("setp.") + op + "." + kind + std::to_string(bits),
                       {kPredicate, t, t},
                       [=](uint64_t a, uint64_t b, uint64_t) { return uint64_t(rule(order(a), order(b))); }});
    };
    add("eq", [](uint64_t a, uint64_t b) { return a == b; });
    add("ne", [](uint64_t a, uint64_t b) { return a != b; });
    cases.push_back({"selp." + (kind + std::to_string(bits)),
                     {t, t, t, kPredicate},
                     [](uint64_t a, uint64_t b, uint64_t p) { return p != 0 ? a : b; }});
    if (kind[0] == 'b') continue;
    add("lt", [](uint64_t a, uint64_t b) { return a < b; });
    add("le", [](uint64_t a, uint64_t b) { return a <= b; });
    add("gt", [](uint64_t a, uint64_t b) { return a > b; });
    add("ge", [](uint64_t a, uint64_t b) { return a >= b; });
  }
}

}  // namespace

TEST(arithmetic_follows_the_isa) {
  std::vector<OpCase> cases;
  add_arithmetic<float>(cases, kF32, ".f32");
  add_arithmetic<double>(cases, kF64, ".f64");
  // Exact in long double but for the last rounding: 64 bits hold a product of 48, not always the sum, so fma of libm.
  cases.push_back({"fma.rn.f32", {kF32, kF32, kF32, kF32}, [](uint64_t a, uint64_t b, uint64_t c) {
                     return bits_of(std::fma(f32(a), f32(b), f32(c)));
                   }});
  cases.push_back({"ex2.approx.f32",
                   {kF32, kF32},
                   [](uint64_t a, uint64_t, uint64_t) { return bits_of(float(std::exp2(double(f32(a))))); },
                   "",
                   2});
  cases.push_back(
      {"rsqrt.approx.f32",
       {kF32, kF32},
       [](uint64_t a, uint64_t, uint64_t) { return bits_of(float(1.0L / std::sqrt((long double)(f32(a))))); },
       "",
       1});
  check_cases(cases);
}

TEST(pairs_of_bf16_round_once) {
  std::vector<OpCase> cases;
  cases.push_back({"cvt.rn.bf16x2.f32", {kB32, kF32, kF32}, [](uint64_t a, uint64_t b, uint64_t) {
                     return to_bf16_bits(f32(a)) << 16 | to_bf16_bits(f32(b));
                   }});
  cases.push_back({"fma.rn.bf16x2", {kB32, kB32, kB32, kB32}, [](uint64_t a, uint64_t b, uint64_t c) {
                     uint64_t d = 0;
                     for (const int at : {0, 16}) {
                       const auto half = [at](uint64_t x) {
                         return (long double)(f32((x >> at & 0xffffu) << 16));
                       };
                       d |= to_bf16_bits(half(a) * half(b) + half(c)) << at;
                     }
                     return d;
                   }});
  check_cases(cases);
}

TEST(comparisons_and_selections_follow_the_isa) {
  std::vector<OpCase> cases;
  add_comparisons<float>(cases, kF32, ".f32");
  add_comparisons<double>(cases, kF64, ".f64");
  for (const int bits : {16, 32, 64}) add_integer_comparisons(cases, bits);
  for (const Type t : {kF32, kF64})
    cases.push_back({t == kF32 ? "selp.f32" : "selp.f64",
                     {t, t, t, kPredicate},
                     [](uint64_t a, uint64_t b, uint64_t p) { return p != 0 ? a : b; }});
  const std::vector<Type> two = {kPredicate, kPredicate}, three = {kPredicate, kPredicate, kPredicate};
  cases.push_back({"and.pred", three, [](uint64_t a, uint64_t b, uint64_t) { return a * b; }});
  cases.push_back({"or.pred", three, [](uint64_t a, uint64_t b, uint64_t) { return std::max(a, b); }});
  cases.push_back({"xor.pred", three, [](uint64_t a, uint64_t b, uint64_t) { return a == b ? 0u : 1u; }});
  cases.push_back({"not.pred", two, [](uint64_t a, uint64_t, uint64_t) { return 1 - a; }});
  cases.push_back({"mov.pred", two, [](uint64_t a, uint64_t, uint64_t) { return a; }});
  check_cases(cases);
}

TEST(conversions_follow_the_isa) {
  std::vector<OpCase> cases;
  const std::vector<std::string> integers = {"s16", "u16", "s32", "u32", "s64", "u64"};
  const auto extended = [](uint64_t x, Type t) {
    const uint64_t sign = uint64_t(1) << (t.bits - 1);
    return t.kind == Type::Kind::kSigned ? (x ^ sign) - sign : x;
  };
  for (const std::string& from : integers) {
    const Type f = type_named(from);
    for (const std::string& to : integers)
      if (from != to)
        cases.push_back({"cvt." + to + "." + from, {type_named(to), f}, [=](uint64_t a, uint64_t, uint64_t) {
                           return extended(a, f);
                         }});
    if (f.bits < 32) continue;
    cases.push_back({"cvt.rn.f32." + from, {kF32, f}, [=](uint64_t a, uint64_t, uint64_t) {
                       return bits_of(f.kind == Type::Kind::kSigned ? float(int64_t(extended(a, f)))
                                                                    : float(a));
                     }});
    cases.push_back({"cvt.rn.f64." + from, {kF64, f}, [=](uint64_t a, uint64_t, uint64_t) {
                       return bits_of(f.kind == Type::Kind::kSigned ? double(int64_t(extended(a, f)))
                                                                    : double(a));
                     }});
    for (const Type s : {kF32, kF64})
      cases.push_back(
          {"cvt.rzi." + from + (s == kF32 ? ".f32" : ".f64"), {f, s}, [=](uint64_t a, uint64_t, uint64_t) {
             const long double x = s == kF32 ? (long double)(f32(a)) : (long double)(f64(a));
             const bool is_signed = f.kind == Type::Kind::kSigned;
             if (std::isnan(x)) return f.bits == 64 || s.bits == 64 ? uint64_t(1) << (f.bits - 1) : 0;
             const long double most = std::exp2((long double)(f.bits - int(is_signed))) - 1;
             const long double least = is_signed ? -most - 1 : 0;
             const long double whole = std::trunc(std::min(std::max(x, least), most));
             return whole < 0 ? uint64_t(int64_t(whole)) : uint64_t(whole);
           }});
  }
  cases.push_back(
      {"cvt.f64.f32", {kF64, kF32}, [](uint64_t a, uint64_t, uint64_t) { return bits_of(double(f32(a))); }});
  cases.push_back({"cvt.rn.f32.f64", {kF32, kF64}, [](uint64_t a, uint64_t, uint64_t) {
                     return bits_of(float(f64(a)));
                   }});
  cases.push_back({"cvt.rn.f32.s16", {kF32, kS16}, [](uint64_t a, uint64_t, uint64_t) {
                     return bits_of(float(int16_t(uint16_t(a))));
                   }});
  cases.push_back({"cvt.f32.f16", {kF32, kB16}, [](uint64_t a, uint64_t, uint64_t) {
                     const float value = to_float(fp16{uint16_t(a)});
                     return value == value ? bits_of(value) : uint64_t(0x7fffffff);
                   }});
  check_cases(cases);
}

// A register may be wider than the type: the low bits count, and the destination is filled by the sign. Here all have
// 64 bits.
TEST(registers_wider_than_the_type) {
  const std::vector<std::string> types = {"s8", "u8", "s16", "u16", "s32", "u32", "s64", "u64"};
  const auto cut = [](uint64_t x, Type t) {
    const int unused = 64 - t.bits;
    return t.kind == Type::Kind::kSigned ? uint64_t(int64_t(x << unused) >> unused) : x << unused >> unused;
  };
  for (const uint64_t value : {uint64_t(0x1234567890abcdef), uint64_t(0xfedcba9876543210)}) {
    Snippet s{.body = error_text("mov.u64 %rd10, ", value, ";\n"),
              .in = {},
              .out_words = 64,
              .threads = 1,
              .bounds = {}};
    std::vector<uint64_t> want;
    for (const std::string& from : types)
      for (const std::string& to : types) {
        if (from == to) continue;
        s.body += error_text("cvt.", to, ".", from, " %rd11, %rd10;\nst.global.u64 [%rd2+", want.size() * 8,
                             "], %rd11;\n");
        want.push_back(cut(cut(value, type_named(from)), type_named(to)));
      }
    const std::vector<uint64_t> found = run_snippet(s);
    for (size_t i = 0; i < want.size(); ++i) {
      SCOPE("conversion ", i);
      CHECK_EQ(found[i], want[i]);
    }
  }
}

}  // namespace llama4rt::test
