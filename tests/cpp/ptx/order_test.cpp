// What orders accesses of different threads, and the race that is reported where nothing does. The executor's own order
// makes most of these right by luck.
#include "ptx/snippet.h"

namespace llama4rt::test {
namespace {

const std::string kShared = ".shared .align 16 .b8 here[4096];\n.shared .align 8 .b8 gate[16];\n";
// A word of shared memory for each thread: %r2; that of the next thread: %r4.
const std::string kWords =
    "shl.b32 %r2, %r1, 2;\nmov.u32 %r3, here;\nadd.s32 %r2, %r2, %r3;\nxor.b32 %r4, %r1, 1;\nshl.b32 %r4, "
    "%r4, 2;\n"
    "add.s32 %r4, %r4, %r3;\n";
// The same in the other warp: %r5.
const std::string kOther = "xor.b32 %r5, %r1, 32;\nshl.b32 %r5, %r5, 2;\nadd.s32 %r5, %r5, %r3;\n";

std::string report(const std::string& body, int threads = 32, int blocks = 1) {
  return report_of(Snippet{.body = body,
                           .module = kShared,
                           .in = std::vector<uint64_t>(256),
                           .out_words = 256,
                           .threads = threads,
                           .blocks = blocks,
                           .bounds = {}});
}

}  // namespace

TEST(lanes_of_a_warp_need_a_barrier_of_the_warp) {
  const std::string store = kWords + "st.shared.u32 [%r2], %r1;\n", load = "ld.shared.u32 %r6, [%r4];\n";
  CHECK(contains(report(store + load), "race: reads what was written at shared address"));
  CHECK(contains(report(store + "shfl.sync.bfly.b32 %r7, %r1, 1, 31, 0xffffffff;\n" + load),
                 "race: reads what was written"));
  CHECK_EQ(report(store + "bar.warp.sync 0xffffffff;\n" + load), "");
  // Written again without one behind the read.
  const std::string again = store + "bar.warp.sync 0xffffffff;\n" + load;
  CHECK(contains(report(again + "st.shared.u32 [%r2], %r1;\n"), "race: writes over what is read at"));
  CHECK_EQ(report(again + "bar.warp.sync 0xffffffff;\nst.shared.u32 [%r2], %r1;\n"), "");
  CHECK(contains(report("mov.u32 %r3, here;\nst.shared.u32 [%r3], %r1;\n"),
                 "race: writes over what was written"));
  // A barrier of some lanes orders those.
  const std::string pairs =
      "and.b32 %r8, %r1, 30;\nmov.u32 %r9, 3;\nshl.b32 %r8, %r9, %r8;\nbar.warp.sync %r8;\n";
  CHECK_EQ(report(store + pairs + load), "");
  CHECK(contains(report(store + pairs + "ld.shared.u32 %r6, [here+124];\n"), "race: reads what was written"));
}

TEST(warps_need_a_barrier_of_the_block) {
  const std::string store = kWords + kOther + "st.shared.u32 [%r2], %r1;\n",
                    load = "ld.shared.u32 %r6, [%r5];\n";
  for (const auto& o : schedules()) {
    SCOPE(describe(o));
    const WithOptions with(o);
    CHECK(!report(store + load, 64).empty());
    CHECK(!report(store + "bar.warp.sync 0xffffffff;\n" + load, 64).empty());
    CHECK_EQ(report(store + "bar.sync 0;\n" + load, 64), "");
    CHECK(contains(report(store + "bar.sync 0;\n" + load + "st.shared.u32 [%r2], %r1;\n", 64), "race: "));
    CHECK_EQ(report(store + "bar.sync 0;\n" + load + "bar.sync 0;\nst.shared.u32 [%r2], %r1;\n", 64), "");
    // An arrival that does not wait publishes, and learns nothing.
    CHECK(contains(report(store + "setp.lt.u32 %p1, %r1, 32;\n@%p1 bra A;\nbar.sync 1, 64;\nbra B;\nA: "
                                  "mov.u32 %r9, 1;\nmov.u32 %r10, 64;\n"
                                  "bar.arrive %r9, %r10;\nB: ld.shared.u32 %r6, [%r5];\n",
                          64),
                   "race: "));
  }
}

TEST(what_is_copied_needs_a_barrier_for_others) {
  const std::string copy =
      kWords +
      "shl.b32 %r7, %r1, 4;\nadd.s32 %r7, %r7, %r3;\nmul.wide.u32 %rd3, %r1, 16;\nadd.s64 %rd3, %rd1, %rd3;\n"
      "cp.async.cg.shared.global.L2::128B [%r7], [%rd3], 16;\ncp.async.commit_group;\ncp.async.wait_group "
      "0;\n";
  CHECK_EQ(report(copy + "ld.shared.u32 %r6, [%r7];\n"), "");
  CHECK(contains(report(copy + "xor.b32 %r7, %r7, 16;\nld.shared.u32 %r6, [%r7];\n"),
                 "race: reads what was written"));
  CHECK_EQ(report(copy + "bar.sync 0;\nxor.b32 %r7, %r7, 16;\nld.shared.u32 %r6, [%r7];\n"), "");
}

// Global memory within a block, and between blocks: fence, atomic, fence.
TEST(blocks_need_fence_and_atomic) {
  const std::string own =
      "mov.u32 %r20, %ctaid.x;\nmul.wide.u32 %rd3, %r20, 8;\nadd.s64 %rd3, %rd2, %rd3;\nsetp.eq.u32 %p1, "
      "%r1, 0;\n";
  const auto two_blocks = [&](const std::string& before, const std::string& after) {
    // Word 0 and 1 are the blocks' own; the ticket is in the input. The last one reads what the first one wrote.
    return own + "@%p1 st.global.u32 [%rd3], %r20;\n" + before +
           "@%p1 atom.relaxed.gpu.global.add.u32 %r21, [%rd1], 1;\n" + after +
           "@!%p1 bra END;\nsetp.eq.u32 %p2, %r21, 1;\n@!%p2 bra END;\nxor.b32 %r22, %r20, 1;\nmul.wide.u32 "
           "%rd4, %r22, 8;\n"
           "add.s64 %rd4, %rd2, %rd4;\nld.global.u32 %r23, [%rd4];\nEND:\n";
  };
  const std::string fence = "fence.acq_rel.gpu;\n";
  for (const auto& o : schedules()) {
    SCOPE(describe(o));
    const WithOptions with(o);
    CHECK_EQ(report(two_blocks(fence, fence), 32, 2), "");
    CHECK(contains(report(two_blocks("", fence), 32, 2), "another block wrote"));
    CHECK(contains(report(two_blocks(fence, ""), 32, 2), "another block wrote"));
    // The other threads of the last block learn it at their barrier.
    const std::string all = own +
                            "mul.wide.u32 %rd5, %r1, 8;\nadd.s64 %rd5, %rd5, %rd2;\nmul.wide.u32 %rd6, %r20, "
                            "512;\nadd.s64 %rd6, %rd5, %rd6;\n"
                            "st.global.u32 [%rd6], %r1;\n";
    const auto last = [&](const std::string& before, const std::string& after) {
      return all + before +
             "@%p1 fence.acq_rel.gpu;\n@%p1 atom.relaxed.gpu.global.add.u32 %r21, [%rd1], 1;\n@%p1 "
             "fence.acq_rel.gpu;\n"
             "@%p1 st.shared.u32 [here], %r21;\n" +
             after +
             "ld.shared.u32 %r21, [here];\nsetp.eq.u32 %p2, %r21, 1;\n@!%p2 bra END;\n"
             "xor.b32 %r22, %r20, 1;\nmul.wide.u32 %rd4, %r22, 512;\nadd.s64 %rd4, %rd5, "
             "%rd4;\nld.global.u32 %r23, [%rd4];\nEND:\n";
    };
    CHECK_EQ(report(last("bar.sync 0;\n", "bar.sync 0;\n"), 64, 2), "");
    // An atomic that is release and acquire needs no fences, but the same barriers.
    const auto ordered = [&](const std::string& before, const std::string& after) {
      std::string text = last(before, after);
      for (size_t at; (at = text.find("@%p1 fence.acq_rel.gpu;\n")) != std::string::npos;) text.erase(at, 24);
      return text.replace(text.find("atom.relaxed"), 12, "atom.acq_rel");
    };
    CHECK_EQ(report(ordered("bar.sync 0;\n", "bar.sync 0;\n"), 64, 2), "");
    CHECK(!report(ordered("", "bar.sync 0;\n"), 64, 2).empty());
    CHECK(!report(ordered("bar.sync 0;\n", "bar.warp.sync 0xffffffff;\n"), 64, 2).empty());
    CHECK(!report(last("", "bar.sync 0;\n"), 64, 2).empty());
    CHECK(!report(last("bar.sync 0;\n", "bar.warp.sync 0xffffffff;\n"), 64, 2).empty());
  }
  CHECK(
      contains(report("mul.wide.u32 %rd3, %r1, 8;\nadd.s64 %rd3, %rd2, %rd3;\nst.global.u32 [%rd3], "
                      "%r1;\nxor.b32 %r2, %r1, 1;\n"
                      "mul.wide.u32 %rd3, %r2, 8;\nadd.s64 %rd3, %rd2, %rd3;\nld.global.u32 %r4, [%rd3];\n"),
               "race: touches global memory that warp 0"));
}

// Kernels that overlap: what the one before writes may be read behind the wait, whoever goes first.
TEST(a_kernel_waits_for_the_one_before) {
  const std::string word =
      "mul.wide.u32 %rd3, %r1, 8;\nadd.s64 %rd4, %rd1, %rd3;\nadd.s64 %rd3, %rd2, %rd3;\n";
  const std::string wait = "griddepcontrol.wait;\n", trigger = "griddepcontrol.launch_dependents;\n";
  const std::string first =
      word + wait + trigger +
      "mov.u32 %r2, 0;\nBUSY: add.s32 %r2, %r2, 1;\nsetp.lt.u32 %p1, %r2, 300;\n@%p1 bra BUSY;\n"
      "cvt.u64.u32 %rd5, %r1;\nst.global.u64 [%rd3], %rd5;\n";
  const auto pair = [&](const std::string& second) {
    return std::vector<Snippet>{
        {.body = first, .in = std::vector<uint64_t>(32, 5), .bounds = {}, .overlaps = true},
        {.body = second, .in = {}, .bounds = {}, .overlaps = true}};
  };
  const std::string use =
      "ld.global.u64 %rd5, [%rd3];\nadd.s64 %rd5, %rd5, 100;\nst.global.u64 [%rd3], %rd5;\n";
  for (const auto& o : schedules()) {
    SCOPE(describe(o));
    const WithOptions with(o);
    // Weights may be read before it.
    const std::vector<uint64_t> found =
        run_snippets(pair(word + "ld.global.u64 %rd6, [%rd4];\n" + wait + trigger + use));
    for (size_t i = 0; i < 32; ++i) CHECK_EQ(found[i], i + 100);
    const auto report_of_pair = [&](const std::string& second) {
      return report_of([&] { run_snippets(pair(second)); });
    };
    CHECK(!report_of_pair(word + trigger + use).empty());
    CHECK(contains(report_of_pair(word + trigger + "mov.u64 %rd5, 1;\nst.global.u64 [%rd4], %rd5;\n" + wait),
                   "writes before it has waited"));
    CHECK(contains(report_of_pair(word + trigger + "ld.global.u64 %rd5, [%rd4];\n"),
                   "ends without having waited"));
    CHECK(contains(report_of_pair(word + wait + use), "never lets the next kernel start"));
  }
  // A kernel that may overlap does, in the order that starts it early.
  const WithOptions with(schedules()[1]);
  CHECK(contains(report_of([&] {
                   run_snippets(pair(word + trigger + "ld.global.u64 %rd5, [%rd3];\n" + wait +
                                     "add.s64 %rd5, %rd5, 1;\n"));
                 }),
                 "reads %rd5, which holds no value"));
}

}  // namespace llama4rt::test
