// Loads, stores and moves: every width and vector, what lies outside, what is misaligned, and what nobody has written.
#include "ptx/op_cases.h"

namespace llama4rt::test {
namespace {

using namespace ptx_executor;  // NOLINT: types

constexpr const char* kElements[] = {"b8",  "u8",  "s8",  "b16", "u16", "s16", "b32",
                                     "u32", "s32", "f32", "b64", "u64", "s64", "f64"};

// Registers for a vector of this type: the narrowest that fit.
std::string registers(Type t, size_t count, int first) {
  const std::string prefix = t.kind == Type::Kind::kFloat ? (t.bits == 32 ? "%f" : "%fd")
                             : t.bits <= 16               ? "%rs"
                             : t.bits == 32               ? "%r"
                                                          : "%rd";
  std::string list;
  for (size_t k = 0; k < count; ++k) list += (k > 0 ? ", " : "") + prefix + std::to_string(first + int(k));
  return count == 1 ? list : "{" + list + "}";
}

std::string run_one(const std::string& body) { return report_of(Snippet{.body = body, .in = {1, 2, 3, 4}}); }

}  // namespace

// Each thread moves 16 bytes of its own through registers and shared memory, in pieces of every kind.
TEST(every_width_moves_its_bytes) {
  Snippet s{
      .body = {}, .module = ".shared .align 16 .b8 here[512];\n", .in = {}, .out_words = 64, .bounds = {}};
  for (uint64_t i = 0; i < 64; ++i) s.in.push_back(i * 0x0123456789abcdef + 0x8040201008040201);
  for (const std::string element : kElements)
    for (const size_t count : {1u, 2u, 4u}) {
      const Type t = type_named(element);
      if (count * size_t(t.bits) > 128) continue;
      SCOPE(element, " ", count);
      const std::string vector = count == 1 ? "" : ".v" + std::to_string(count);
      const std::string r = registers(t, count, 30);
      s.body =
          "mul.wide.u32 %rd3, %r1, 16;\nadd.s64 %rd4, %rd1, %rd3;\nadd.s64 %rd5, %rd2, %rd3;\nshl.b32 %r2, "
          "%r1, 4;\n"
          "mov.u32 %r3, here;\nadd.s32 %r2, %r2, %r3;\n";
      for (size_t at = 0; at < 16; at += count * size_t(t.bits) / 8) {
        const std::string offset = at == 0 ? "" : "+" + std::to_string(at);
        s.body += error_text("ld.global", vector, ".", element, " ", r, ", [%rd4", offset, "];\nst.shared",
                             vector, ".", element, " [%r2", offset, "], ", r, ";\nld.shared", vector, ".",
                             element, " ", r, ", [%r2", offset, "];\nst.global", vector, ".", element,
                             " [%rd5", offset, "], ", r, ";\n");
      }
      CHECK(run_snippet(s) == s.in);
    }
}

// Of parameters, into registers that are wider: extended by the sign of the type.
TEST(parameters_load_as_every_type) {
  for (const std::string element : kElements)
    for (const size_t count : {1u, 2u, 4u}) {
      const Type t = type_named(element);
      const size_t bits = count * size_t(t.bits);
      if (bits > 128) continue;
      SCOPE(element, " ", count);
      const std::string vector = count == 1 ? "" : ".v" + std::to_string(count), r = registers(t, count, 30);
      // Both addresses, or the second, or the beginning of it.
      std::string body =
          error_text("ld.param", vector, ".", element, " ", r, bits > 64 ? ", [p_in];\n" : ", [p_out];\n");
      for (size_t k = 0; k < count; ++k)
        body += error_text("st.global.", element, " [%rd2+", k * size_t(t.bits) / 8, "], ",
                           registers(t, 1, 30 + int(k)), ";\n");
      body += error_text("st.global.u64 [%rd2+16], ", bits > 64 ? "%rd1" : "%rd2",
                         ";\nst.global.u64 [%rd2+24], %rd2;\n");
      const std::vector<uint64_t> found =
          run_snippet({.body = body, .in = {}, .out_words = 4, .threads = 1, .bounds = {}});
      const uint64_t mask = bits >= 64 ? ~uint64_t(0) : (uint64_t(1) << bits) - 1;
      CHECK_EQ(found[0] & mask, found[2] & mask);
      if (bits > 64) CHECK_EQ(found[1], found[3]);
    }
  const std::vector<uint64_t> extended = run_snippet(
      {.body = "ld.global.s8 %rd10, [%rd1];\nst.global.u64 [%rd2], %rd10;\nld.global.u8 %rd10, [%rd1];\n"
               "st.global.u64 [%rd2+8], %rd10;\nld.global.s16 %r10, [%rd1];\nst.global.u32 [%rd2+16], %r10;\n"
               "mov.u32 %r10, 0;\nst.global.u32 [%rd2+20], %r10;\n",
       .in = {0x80ff},
       .out_words = 3,
       .threads = 1,
       .bounds = {}});
  CHECK(extended == (std::vector<uint64_t>{~uint64_t(0), 0xff, 0xffff80ff}));
}

TEST(moves_join_and_split) {
  const std::vector<uint64_t> found = run_snippet(
      {.body =
           "mov.u64 %rd10, 0x1122334455667788;\nmov.b64 {%r10, %r11}, %rd10;\nmov.b64 %rd11, {%r11, %r10};\n"
           "st.global.u64 [%rd2], %rd11;\nmov.b32 {%rs10, %rs11}, %r10;\nmov.b32 %r12, {%rs11, %rs10};\n"
           "cvt.u64.u32 %rd12, %r12;\nst.global.u64 [%rd2+8], %rd12;\nmov.b64 {%rs1, %rs2, %rs3, %rs4}, "
           "%rd10;\n"
           "mov.b64 %rd13, {%rs4, %rs3, %rs2, %rs1};\nst.global.u64 [%rd2+16], %rd13;\nmov.b32 {_, %rs5}, "
           "%r10;\n"
           "cvt.u64.u16 %rd14, %rs5;\nst.global.u64 [%rd2+24], %rd14;\nmov.f32 %f1, 0f3F800000;\nmov.b32 "
           "%r13, %f1;\n"
           "mov.f64 %fd1, 0d4000000000000000;\nmov.b64 %rd15, %fd1;\nmov.u16 %rs6, 65535;\nmov.b16 %rs7, "
           "%rs6;\n"
           "mov.s16 %rs8, -2;\nmov.s32 %r14, -3;\nmov.s64 %rd16, -4;\nadd.s64 %rd17, %rd15, %rd16;\n"
           "st.global.u64 [%rd2+32], %rd17;\nst.global.u32 [%rd2+40], %r13;\nst.global.u32 [%rd2+44], %r14;\n"
           "st.global.u16 [%rd2+48], %rs7;\nst.global.u16 [%rd2+50], %rs8;\nst.global.u32 [%rd2+52], %r14;\n"
           "mov.f32 %f2, %f1;\nmov.f64 %fd2, %fd1;\n",
       .in = {},
       .out_words = 7,
       .threads = 1,
       .bounds = {}});
  CHECK(found == (std::vector<uint64_t>{0x5566778811223344, 0x77885566, 0x7788556633441122, 0x5566,
                                        0x3ffffffffffffffc, 0xfffffffd3f800000, 0xfffffffdfffeffff}));
}

TEST(addresses_go_between_spaces) {
  const std::vector<uint64_t> found = run_snippet(
      {.body = "mov.u32 %r2, here;\ncvt.u64.u32 %rd3, %r2;\ncvta.shared.u64 %rd4, %rd3;\ncvta.to.shared.u64 "
               "%rd5, %rd4;\n"
               "cvt.u32.u64 %r3, %rd5;\nst.shared.u32 [%r3+4], %r1;\nld.shared.u32 %r4, [here+4];\n"
               "cvta.to.global.u64 %rd6, %rd2;\nst.global.u32 [%rd6], %r4;\nsub.s32 %r5, %r3, %r2;\n"
               "st.global.u32 [%rd6+4], %r5;\nmov.b64 %rd7, p_in;\ncvta.param.u64 %rd8, %rd7;\n",
       .module = ".shared .align 8 .b8 here[8];\n",
       .in = {},
       .out_words = 1,
       .threads = 1,
       .bounds = {}});
  CHECK_EQ(found[0], 0u);
  CHECK(contains(run_one("cvta.to.shared.u64 %rd3, %rd1;"), "not one of shared memory"));
  CHECK(contains(run_one("mov.u32 %r2, 0;\ncvt.u64.u32 %rd3, %r2;\ncvta.shared.u64 %rd4, "
                         "%rd3;\ncvta.to.global.u64 %rd5, %rd4;"),
                 "not one of global memory"));
}

TEST(what_lies_outside_is_a_fault) {
  CHECK(contains(run_one("ld.global.u32 %r2, [%rd1+32];"), "bytes at offset 32 of allocation"));
  CHECK(contains(run_one("ld.global.u64 %rd3, [%rd1+-8];"), "bytes at offset"));
  CHECK(contains(run_one("mov.u64 %rd3, 0;\nld.global.u32 %r2, [%rd3];"), "is no device memory"));
  CHECK(contains(run_one("ld.global.u32 %r2, [%rd1+2];"), "is not a multiple of 4"));
  CHECK(contains(run_one("ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%rd1+8];"), "is not a multiple of 16"));
  CHECK(contains(run_one("mov.u32 %r2, 0;\nld.shared.u32 %r3, [%r2];"), "4 bytes at shared address 0"));
  CHECK(contains(
      report_of(Snippet{.body = "ld.shared.u32 %r2, [here+8];", .module = ".shared .align 4 .b8 here[8];\n"}),
      "bytes at shared address"));
  CHECK(contains(run_one("mov.b64 %rd3, p_out;\nld.param.u64 %rd4, [%rd3+8];"), "of 16 bytes of parameters"));
}

// A variable lies no better than its declaration asks.
TEST(alignment_is_only_what_was_declared) {
  const std::string body =
      "mov.u32 %r2, here;\nmov.u32 %r3, 0;\nst.shared.v4.u32 [%r2], {%r3, %r3, %r3, %r3};";
  CHECK(contains(report_of(Snippet{.body = body, .module = ".shared .align 8 .b8 here[64];\n"}),
                 "not a multiple of 16"));
  CHECK_EQ(report_of(Snippet{.body = body, .module = ".shared .align 16 .b8 here[64];\n", .threads = 1}), "");
}

TEST(what_nobody_wrote_may_be_loaded_and_not_used) {
  const std::string load = "ld.shared.u32 %r2, [here];\n", module = ".shared .align 4 .b8 here[8];\n";
  CHECK_EQ(report_of(Snippet{.body = load, .module = module}), "");
  const std::string report = report_of(Snippet{.body = load + "add.s32 %r3, %r2, 1;", .module = module});
  CHECK(contains(report, "reads %r2, which holds no value"));
  CHECK(contains(report, "written by snippet.ptx"));
  CHECK(contains(run_one("add.s32 %r3, %r2, 1;"), "reads %r2, which holds no value"));
  CHECK(contains(run_one("@%p1 mov.u32 %r3, 1;"), "a predicate that holds no value"));
  // Of half the lanes.
  CHECK(contains(run_one("setp.lt.u32 %p1, %r1, 16;\n@%p1 mov.u32 %r3, 1;\nadd.s32 %r4, %r3, 1;"),
                 "lane 16: reads %r3"));
}

TEST(atomics_add_one_lane_after_the_other) {
  const std::vector<uint64_t> found = run_snippet(
      {.body = "setp.eq.s32 %p1, %r1, 0;\nmov.u64 %rd3, 100;\n@%p1 st.global.u64 [%rd2], %rd3;\nbar.sync 0;\n"
               "atom.relaxed.gpu.global.add.u32 %r2, [%rd2], 2;\nmul.wide.u32 %rd3, %r1, 8;\nadd.s64 %rd3, "
               "%rd2, %rd3;\n"
               "cvt.u64.u32 %rd4, %r2;\nst.global.u64 [%rd3+8], %rd4;\n",
       .in = {},
       .out_words = 65,
       .threads = 64,
       .bounds = {}});
  CHECK_EQ(found[0], 228u);
  uint64_t sum = 0;
  for (size_t i = 1; i < found.size(); ++i) sum += found[i];
  CHECK_EQ(sum, uint64_t(64 * 100 + 2 * 63 * 64 / 2));
}

}  // namespace llama4rt::test
