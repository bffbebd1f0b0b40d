// Matrix instructions against plain products. Fragments are written down here once more, from the tables of the ISA.
#include <bit>
#include <cmath>

#include "base/dtype.h"
#include "ptx/snippet.h"
#include "ptx_executor/descriptor.h"

namespace llama4rt::test {
namespace {

// Small numbers of either sign, exact in bf16.
float element(int matrix, int row, int column) {
  return float((row * 31 + column * 17 + matrix * 7 + row * column) % 29 - 14) / 8.0f;
}
uint32_t half_of(float x) { return to_bf16(x).bits; }
uint32_t pair_of(float low, float high) { return half_of(low) | half_of(high) << 16; }
float as_float(uint64_t bits) { return std::bit_cast<float>(uint32_t(bits)); }

}  // namespace

TEST(ldmatrix_gives_rows_and_columns) {
  for (const bool transposed : {false, true}) {
    Snippet s{.body =
                  "mul.lo.u32 %r2, %r1, 48;\nmov.u32 %r3, here;\nadd.s32 %r2, %r2, %r3;\nmul.wide.u32 %rd3, "
                  "%r1, 16;\n"
                  "add.s64 %rd3, %rd1, %rd3;\nld.global.v2.u64 {%rd4, %rd5}, [%rd3];\nst.shared.v2.u64 "
                  "[%r2], {%rd4, %rd5};\n"
                  "bar.warp.sync 0xffffffff;\nldmatrix.sync.aligned.m8n8.x4" +
                  std::string(transposed ? ".trans" : "") +
                  ".shared.b16 {%r4, %r5, %r6, %r7}, [%r2];\nmul.wide.u32 %rd3, %r1, 16;\nadd.s64 %rd3, "
                  "%rd2, %rd3;\n"
                  "st.global.v4.u32 [%rd3], {%r4, %r5, %r6, %r7};\n",
              .module = ".shared .align 16 .b8 here[1536];\n",
              .in = {},
              .out_words = 64,
              .bounds = {}};
    std::vector<uint16_t> halves(256);  // row r of the 32 has elements 8r ..
    for (size_t i = 0; i < 256; ++i) halves[i] = uint16_t(i * 257 + 3);
    s.in.resize(64);
    std::memcpy(s.in.data(), halves.data(), 512);
    const std::vector<uint64_t> out = run_snippet(s);
    std::vector<uint16_t> found(256);
    std::memcpy(found.data(), out.data(), 512);
    for (size_t lane = 0; lane < 32; ++lane)
      for (size_t matrix = 0; matrix < 4; ++matrix)
        for (size_t h = 0; h < 2; ++h) {
          const size_t across = 2 * (lane % 4) + h, along = lane / 4;
          const size_t row = transposed ? across : along, column = transposed ? along : across;
          CHECK_EQ(found[lane * 8 + matrix * 2 + h], halves[(matrix * 8 + row) * 8 + column]);
        }
  }
}

TEST(mma_is_a_matrix_product) {
  Snippet s{.body = "mul.wide.u32 %rd3, %r1, 40;\nadd.s64 %rd3, %rd1, %rd3;\n",
            .in = {},
            .out_words = 64,
            .bounds = {}};
  for (int r = 0; r < 6; ++r) s.body += error_text("ld.global.u32 %r", 10 + r, ", [%rd3+", 4 * r, "];\n");
  for (int r = 0; r < 4; ++r)
    s.body += error_text("ld.global.f32 %f", 10 + r, ", [%rd3+", 24 + 4 * r, "];\n");
  s.body +=
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f20, %f21, %f22, %f23}, {%r10, %r11, %r12, "
      "%r13}, {%r14, %r15}, "
      "{%f10, %f11, %f12, %f13};\nmul.wide.u32 %rd4, %r1, 16;\nadd.s64 %rd4, %rd2, %rd4;\n"
      "st.global.v4.f32 [%rd4], {%f20, %f21, %f22, %f23};\n";
  std::vector<uint32_t> words;
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = 2 * (lane % 4);
    for (const auto& [row, k] : {std::pair(g, t), {g + 8, t}, {g, t + 8}, {g + 8, t + 8}})
      words.push_back(pair_of(element(0, row, k), element(0, row, k + 1)));
    for (const int k : {t, t + 8}) words.push_back(pair_of(element(1, k, g), element(1, k + 1, g)));
    for (const auto& [row, n] : {std::pair(g, t), {g, t + 1}, {g + 8, t}, {g + 8, t + 1}})
      words.push_back(std::bit_cast<uint32_t>(element(2, row, n)));
  }
  s.in.resize(words.size() / 2);
  std::memcpy(s.in.data(), words.data(), words.size() * 4);
  const std::vector<uint64_t> out = run_snippet(s);
  for (int row = 0; row < 16; ++row)
    for (int n = 0; n < 8; ++n) {
      double sum = double(element(2, row, n));
      for (int k = 0; k < 16; ++k) sum += double(element(0, row, k)) * double(element(1, k, n));
      const int lane = row % 8 * 4 + n / 2, r = row / 8 * 2 + n % 2;
      CHECK_EQ(double(as_float(out[size_t(lane * 4 + r) / 2] >> (r % 2 * 32))), sum);  // exact: small numbers
    }
}

namespace {

struct WgmmaCase {
  int n = 8;
  bool registers = false;
  ptx_executor::Swizzling swizzling = ptx_executor::Swizzling::kNone;
  bool accumulate = false;
  int scale_a = 1, scale_b = 1;
  bool fence = true, wait = true, proxy_fence = true;
};

// A of 64 x 16 and B of n x 16 (k along the rows), laid out by the test without descriptor.h.
Snippet wgmma_snippet(const WgmmaCase& c) {
  using ptx_executor::Swizzling;
  // Chunks of 16 bytes: (row, half of k) -> byte offset in the operand.
  const auto place = [&](int row, int chunk) {
    switch (c.swizzling) {
      case Swizzling::kNone:  // cores of 128 bytes: along k 128 apart, along rows 256
        return row / 8 * 256 + chunk * 128 + row % 8 * 16;
      case Swizzling::k128:
        return row / 8 * 1024 + row % 8 * 128 + (chunk ^ row % 8) * 16;
      case Swizzling::k64:
        return row / 8 * 512 + row % 8 * 64 + (chunk ^ row % 8 / 2) * 16;
      case Swizzling::k32:
        return row / 8 * 256 + row % 8 * 32 + (chunk ^ row % 8 / 4) * 16;
    }
    return 0;
  };
  const int stride = c.swizzling == Swizzling::k128 ? 1024 : c.swizzling == Swizzling::k64 ? 512 : 256;
  constexpr int kOperand = 8192;
  std::vector<uint16_t> image((kOperand + 16384) / 2, 0);
  for (int row = 0; row < 64; ++row)
    for (int k = 0; k < 16; ++k)
      image[size_t(place(row, k / 8) / 2 + k % 8)] = uint16_t(half_of(element(0, row, k)));
  for (int row = 0; row < c.n; ++row)
    for (int k = 0; k < 16; ++k)
      image[size_t((kOperand + place(row, k / 8)) / 2 + k % 8)] = uint16_t(half_of(element(1, k, row)));
  Snippet s{.body = {},
            .module = ".extern .shared .align 1024 .b8 tile[];\n",
            .in = {},
            .out_words = size_t(64 * c.n) / 2,
            .threads = 128,
            .dynamic_shared = image.size() * 2,
            .bounds = {}};
  s.in.resize(image.size() / 4);
  std::memcpy(s.in.data(), image.data(), image.size() * 2);
  s.body =
      "mov.u32 %r2, tile;\nshl.b32 %r3, %r1, 3;\nmov.u32 %r4, 0;\nadd.s32 %r5, %r2, %r3;\ncvt.u64.u32 %rd3, "
      "%r3;\n"
      "add.s64 %rd3, %rd1, %rd3;\nFILL: ld.global.u64 %rd4, [%rd3];\nst.shared.u64 [%r5], %rd4;\nadd.s64 "
      "%rd3, %rd3, 1024;\n"
      "add.s32 %r5, %r5, 1024;\nadd.s32 %r4, %r4, 1;\nsetp.lt.u32 %p1, %r4, 24;\n@%p1 bra FILL;\n";
  if (c.proxy_fence) s.body += "fence.proxy.async.shared::cta;\n";
  s.body += "bar.sync 0;\n";
  // Descriptors: start / 16, leading / 16 at bit 16, stride / 16 at bit 32, the mode at bit 62.
  const uint64_t upper = uint64_t(c.swizzling) << 62 | uint64_t(stride / 16) << 32 | uint64_t(128 / 16) << 16;
  s.body += error_text("shr.u32 %r6, %r2, 4;\ncvt.u64.u32 %rd5, %r6;\nor.b64 %rd5, %rd5, ", int64_t(upper),
                       ";\nadd.s64 %rd6, %rd5, ", kOperand / 16, ";\nsetp.", c.accumulate ? "eq" : "ne",
                       ".u32 %p2, 0, 0;\n");
  // Fragments of A from global memory, where the image lies row by row without swizzle of this kind: through shared.
  if (c.registers)
    for (int r = 0; r < 4; ++r) {
      s.body += error_text(
          "shr.u32 %r7, %r1, 5;\nshl.b32 %r7, %r7, 4;\nand.b32 %r8, %r1, 31;\nshr.u32 %r9, %r8, 2;\n"
          "add.s32 %r7, %r7, %r9;\nadd.s32 %r7, %r7, ",
          r % 2 * 8, ";\nand.b32 %r8, %r8, 3;\nshl.b32 %r8, %r8, 2;\n");
      // Row %r7, byte %r8 of chunk r / 2 (no swizzle only).
      s.body += error_text(
          "shr.u32 %r9, %r7, 3;\nshl.b32 %r9, %r9, 8;\nand.b32 %r7, %r7, 7;\nshl.b32 %r7, %r7, 4;\n"
          "add.s32 %r9, %r9, %r7;\nadd.s32 %r9, %r9, %r8;\nadd.s32 %r9, %r9, %r2;\nld.shared.u32 %r",
          20 + r, ", [%r9+", r / 2 * 128, "];\n");
    }
  std::string d;
  for (int i = 0; i < c.n / 2; ++i) {
    s.body += error_text("mov.f32 %f", 20 + i, ", 0f40000000;\n");
    d += (i > 0 ? ", %f" : "%f") + std::to_string(20 + i);
  }
  if (c.fence) s.body += "wgmma.fence.sync.aligned;\n";
  s.body += error_text("wgmma.mma_async.sync.aligned.m64n", c.n, "k16.f32.bf16.bf16 {", d, "}, ",
                       c.registers ? "{%r20, %r21, %r22, %r23}" : "%rd5", ", %rd6, %p2, ", c.scale_a, ", ",
                       c.scale_b, c.registers ? ", 0;\n" : ", 0, 0;\n", "wgmma.commit_group.sync.aligned;\n");
  if (c.wait) s.body += "wgmma.wait_group.sync.aligned 0;\n";
  s.body += error_text("mul.wide.u32 %rd7, %r1, ", c.n * 2, ";\nadd.s64 %rd7, %rd2, %rd7;\n");
  for (int i = 0; i < c.n / 2; ++i)
    s.body += error_text("st.global.f32 [%rd7+", 4 * i, "], %f", 20 + i, ";\n");
  if (!c.wait) s.body += "wgmma.wait_group.sync.aligned 0;\n";
  return s;
}

void check_wgmma(const WgmmaCase& c) {
  SCOPE("n ", c.n, c.registers ? ", registers" : "", ", swizzling ", int(c.swizzling), ", scales ", c.scale_a,
        " ", c.scale_b);
  const std::vector<uint64_t> out = run_snippet(wgmma_snippet(c));
  for (int row = 0; row < 64; ++row)
    for (int n = 0; n < c.n; ++n) {
      double sum = 0;
      for (int k = 0; k < 16; ++k) sum += double(element(0, row, k)) * double(element(1, k, n));
      sum = sum * c.scale_a * c.scale_b + (c.accumulate ? 2.0 : 0.0);
      const int thread = row / 16 * 32 + row % 8 * 4 + n % 8 / 2, i = n / 8 * 4 + row % 16 / 8 * 2 + n % 2;
      const int word = thread * c.n / 2 + i;
      CHECK_EQ(double(as_float(out[size_t(word / 2)] >> (word % 2 * 32))), sum);
    }
}

}  // namespace

TEST(wgmma_is_a_matrix_product) {
  using ptx_executor::Swizzling;
  for (const auto& o : schedules()) {
    SCOPE(describe(o));
    const WithOptions with(o);
    for (const int n : {8, 64, 128}) {
      for (const Swizzling s : {Swizzling::kNone, Swizzling::k128, Swizzling::k64, Swizzling::k32})
        check_wgmma({.n = n, .swizzling = s, .accumulate = n == 64});
      check_wgmma({.n = n, .registers = true, .accumulate = n == 8});
    }
    check_wgmma({.scale_a = -1});
    check_wgmma({.accumulate = true, .scale_b = -1});
  }
}

TEST(misuse_of_wgmma_is_reported) {
  for (const auto& o : schedules()) {
    const WithOptions with(o);
    CHECK(contains(report_of(wgmma_snippet({.wait = false})), "which an unfinished wgmma writes"));
    CHECK(contains(report_of(wgmma_snippet({.fence = false})), "no wgmma.fence stands before"));
    CHECK(contains(report_of(wgmma_snippet({.proxy_fence = false})), "without fence.proxy.async"));
  }
  const auto with_text = [](const std::string& from, const std::string& to, WgmmaCase c = {}) {
    Snippet s = wgmma_snippet(c);
    const size_t at = s.body.find(from);
    if (at == std::string::npos) return "no " + from;
    s.body.replace(at, from.size(), to);
    return report_of(s);
  };
  CHECK(contains(
      with_text("wgmma.fence.sync.aligned;\n", "wgmma.fence.sync.aligned;\nmov.f32 %f21, 0f00000000;\n"),
      "%f21 was written, and no wgmma.fence stands between"));
  CHECK(contains(with_text("wgmma.commit_group.sync.aligned;\n",
                           "wgmma.commit_group.sync.aligned;\nmov.u32 %r20, 0;\n", {.registers = true}),
                 "writes %r20, which an unfinished wgmma uses"));
  CHECK(contains(with_text("wgmma.wait_group.sync.aligned 0", "wgmma.wait_group.sync.aligned 1"),
                 "which an unfinished wgmma writes"));
  CHECK(contains(with_text(", 1, 1, 0, 0;", ", 1, 1, 1, 0;"), "operand 6 is 1; only 0 is modelled"));
  CHECK(contains(with_text(", 1, 1, 0, 0;", ", 2, 1, 0, 0;"), "a scale is 1 or -1"));
  CHECK(contains(with_text("add.s64 %rd6, %rd5, 512;", "or.b64 %rd6, %rd5, 49152;"),
                 "sets bits that mean nothing"));
  // Beyond the shared memory of the block.
  CHECK(contains(with_text("add.s64 %rd6, %rd5, 512;", "add.s64 %rd6, %rd5, 1536;"),
                 "bytes at shared address"));
}

}  // namespace llama4rt::test
