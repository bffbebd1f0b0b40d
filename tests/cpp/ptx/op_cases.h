// Instructions that work lane by lane, against the rule of the ISA written down once more in C++.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "ptx/snippet.h"
#include "ptx_executor/forms.h"

namespace llama4rt::test {

struct OpCase {
  std::string opcode;
  std::vector<ptx_executor::Type> types;  // destination, then sources
  // Of the bits of the sources, the bits of the result.
  std::function<uint64_t(uint64_t, uint64_t, uint64_t)> rule;
  std::string more = {};   // further operands, behind the sources
  uint64_t tolerance = 0;  // how far the bits of the result may be off
};

// Values that show something: small, large, signs, and noise.
inline std::vector<uint64_t> values_of(ptx_executor::Type type, int source, size_t count) {
  using Kind = ptx_executor::Type::Kind;
  std::vector<uint64_t> values;
  if (type == ptx_executor::kF32)
    values = {0x00000000, 0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00001, 0x00000001,
              0x807fffff, 0x7f7fffff, 0x4f000000, 0xcf000000, 0x5f800000, 0x40490fdb, 0x3e99999a, 0xc1200000};
  else if (type == ptx_executor::kF64)
    values = {0x0000000000000000, 0x8000000000000000, 0x3ff0000000000000, 0xbff0000000000000,
              0x7ff0000000000000, 0xfff0000000000000, 0x7ff8000000000001, 0x0000000000000001,
              0x41e0000000000000, 0xc1e0000000000000, 0x43f0000000000000, 0x400921fb54442d18};
  else if (type.kind == Kind::kPredicate)
    values = {0, 1};
  else
    values = {0,
              1,
              2,
              3,
              7,
              31,
              32,
              33,
              63,
              64,
              255,
              ~uint64_t(0),
              ~uint64_t(1),
              uint64_t(1) << (type.bits - 1),
              (uint64_t(1) << (type.bits - 1)) - 1,
              0x5555555555555555};
  uint64_t state = 1 + uint64_t(source) * 77;
  while (values.size() < count) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    values.push_back(state ^ state >> 29);
  }
  // Another order for each source, so that pairs differ.
  std::vector<uint64_t> turned(values.size());
  for (size_t i = 0; i < values.size(); ++i)
    turned[i] = values[(i * (2 * size_t(source) + 1) + size_t(source)) % values.size()];
  const uint64_t mask = type.bits == 64 ? ~uint64_t(0) : (uint64_t(1) << type.bits) - 1;
  for (uint64_t& v : turned) v &= mask;
  return turned;
}

inline std::string register_of(ptx_executor::Type type, int n) {
  using Kind = ptx_executor::Type::Kind;
  const char* prefix = type.kind == Kind::kPredicate ? "%p"
                       : type.bits == 16             ? "%rs"
                       : type.kind == Kind::kFloat   ? (type.bits == 32 ? "%f" : "%fd")
                       : type.bits == 32             ? "%r"
                                                     : "%rd";
  return prefix + std::to_string(n);
}

// Runs every case on two warps and compares.
inline void check_cases(const std::vector<OpCase>& cases) {
  constexpr size_t kThreads = 64;
  for (const OpCase& c : cases) {
    SCOPE(c.opcode, " ", c.more);
    Snippet s;
    s.threads = int(kThreads);
    s.out_words = kThreads;
    std::string call = c.opcode + " " + register_of(c.types[0], 20);
    std::vector<std::vector<uint64_t>> sources;
    for (size_t k = 1; k < c.types.size(); ++k) {
      const ptx_executor::Type t = c.types[k];
      sources.push_back(values_of(t, int(k), kThreads));
      s.in.insert(s.in.end(), sources.back().begin(), sources.back().begin() + kThreads);
      const int n = 20 + int(k);
      s.body += error_text("mul.wide.u32 %rd60, %r1, 8;\nadd.s64 %rd60, %rd1, %rd60;\n");
      const size_t at = (k - 1) * kThreads * 8;
      if (t.bits == 1)
        s.body += error_text("ld.global.u32 %r50, [%rd60+", at, "];\nsetp.ne.u32 %p", n, ", %r50, 0;\n");
      else
        s.body += error_text("ld.global.b", t.bits, " ", register_of(t, n), ", [%rd60+", at, "];\n");
      call += ", " + register_of(t, n);
    }
    s.body += call + c.more + ";\n";
    const ptx_executor::Type d = c.types[0];
    s.body +=
        "mul.wide.u32 %rd60, %r1, 8;\nadd.s64 %rd60, %rd2, %rd60;\nmov.u64 %rd61, 0;\nst.global.u64 [%rd60], "
        "%rd61;\n";
    if (d.bits == 1)
      s.body += "selp.u32 %r51, 1, 0, %p20;\nst.global.u32 [%rd60], %r51;\n";
    else
      s.body += error_text("st.global.b", d.bits, " [%rd60], ", register_of(d, 20), ";\n");
    const std::vector<uint64_t> found = run_snippet(s);
    for (size_t lane = 0; lane < kThreads; ++lane) {
      const auto source = [&](size_t k) { return k < sources.size() ? sources[k][lane] : 0; };
      const uint64_t mask = d.bits == 64 ? ~uint64_t(0) : (uint64_t(1) << d.bits) - 1;
      const uint64_t want = c.rule(source(0), source(1), source(2)) & mask;
      const uint64_t off = found[lane] > want ? found[lane] - want : want - found[lane];
      SCOPE(std::hex, source(0), " ", source(1), " ", source(2));
      if (off > c.tolerance) CHECK_EQ(error_text(std::hex, found[lane]), error_text(std::hex, want));
    }
  }
}

}  // namespace llama4rt::test
