// Barriers of the block, mbarriers, copies in flight, and moving registers.
#include "ptx/snippet.h"

namespace llama4rt::test {
namespace {

const std::string kShared = ".shared .align 16 .b8 here[4096];\n.shared .align 8 .b8 gate[16];\n";

// The threads' own 16 bytes of shared memory: %r2; of the input: %rd3.
const std::string kOwn =
    "shl.b32 %r2, %r1, 4;\nmov.u32 %r3, here;\nadd.s32 %r2, %r2, %r3;\nmul.wide.u32 %rd3, %r1, 16;\n"
    "add.s64 %rd3, %rd1, %rd3;\n";
const std::string kCopy =
    "cp.async.cg.shared.global.L2::128B [%r2], [%rd3], 16, 16;\ncp.async.commit_group;\n";

std::vector<uint64_t> numbers(size_t count) {
  std::vector<uint64_t> all(count);
  for (size_t i = 0; i < count; ++i) all[i] = i * 1000003 + 17;
  return all;
}
std::string report(const std::string& body, int threads = 32) {
  return report_of(Snippet{.body = body,
                           .module = kShared,
                           .in = numbers(256),
                           .out_words = 256,
                           .threads = threads,
                           .bounds = {}});
}
// Under each schedule.
void check_all(const Snippet& s, const std::vector<uint64_t>& want) {
  for (const auto& o : schedules()) {
    SCOPE(describe(o));
    const WithOptions with(o);
    CHECK(run_snippet(s) == want);
  }
}

}  // namespace

TEST(block_barriers_wait_for_all_warps) {
  std::vector<uint64_t> want(128);
  for (size_t i = 0; i < 128; ++i) want[i] = 127 - i;
  check_all({.body = kOwn +
                     "st.shared.u32 [%r2], %r1;\nbar.sync 0;\nsub.s32 %r4, 127, %r1;\nshl.b32 %r4, %r4, 4;\n"
                     "add.s32 %r4, %r4, %r3;\nld.shared.u32 %r5, [%r4];\n" +
                     store_word("%r5"),
             .module = kShared,
             .in = {},
             .out_words = 128,
             .threads = 128,
             .bounds = {}},
            want);
  // Producers arrive and go on; consumers wait for both.
  for (size_t i = 0; i < 128; ++i) want[i] = i < 64 ? 7 : i - 64;
  check_all({.body = kOwn +
                     "setp.lt.u32 %p1, %r1, 64;\nmov.u32 %r6, 3;\nmov.u32 %r7, 128;\n@!%p1 bra WAIT;\n"
                     "st.shared.u32 [%r2], %r1;\nbar.arrive %r6, %r7;\nmov.u32 %r5, 7;\nbra DONE;\n"
                     "WAIT: bar.sync %r6, %r7;\nld.shared.u32 %r5, [%r2+-1024];\nDONE:\n" +
                     store_word("%r5"),
             .module = kShared,
             .in = {},
             .out_words = 128,
             .threads = 128,
             .bounds = {}},
            want);
}

TEST(barriers_that_nobody_completes_are_reported) {
  CHECK(contains(report("bar.sync 1, 64;\n"), "a barrier of 64 threads"));
  CHECK(contains(report("setp.lt.u32 %p1, %r1, 32;\n@%p1 exit;\nbar.sync 1, 64;\n", 64), "deadlock"));
  CHECK(contains(report("bar.sync 1, 48;\n", 64), "no multiple of 32"));
  CHECK(contains(report("mov.u32 %r2, 16;\nbar.sync %r2, 32;\n"), "barrier 16; there are 16"));
  CHECK(contains(report("bar.sync %r1, 32;\n"), "differs between lanes"));
  CHECK(contains(
      report("setp.lt.u32 %p1, %r1, 32;\n@%p1 bra A;\nbar.sync 1, 64;\nbra B;\nA: bar.sync 1, 96;\nB:\n", 96),
      "of which others wait with"));
}

TEST(copies_land_at_the_wait) {
  const std::vector<uint64_t> in = numbers(64);
  std::vector<uint64_t> want(64);
  for (size_t i = 0; i < 64; ++i) want[i] = i % 2 == 0 ? in[i] : i / 2 % 2 == 0 ? 0 : in[i];
  // Every second thread reads 8 bytes of its 16.
  check_all({.body = kOwn +
                     "and.b32 %r4, %r1, 1;\nshl.b32 %r4, %r4, 3;\nadd.s32 %r4, %r4, 8;\n"
                     "cp.async.cg.shared.global.L2::128B [%r2], [%rd3], 16, %r4;\ncp.async.commit_group;\n"
                     "cp.async.commit_group;\ncp.async.wait_group 1;\nld.shared.v2.u64 {%rd5, %rd6}, [%r2];\n"
                     "mul.wide.u32 %rd4, %r1, 16;\nadd.s64 %rd4, %rd2, %rd4;\nst.global.u64 [%rd4], "
                     "%rd5;\nst.global.u64 [%rd4+8], %rd6;\n",
             .module = kShared,
             .in = in,
             .out_words = 64,
             .bounds = {}},
            want);
}

TEST(bytes_in_flight_are_nobodys) {
  for (const auto& o : schedules()) {
    SCOPE(describe(o));
    const WithOptions with(o);
    CHECK(contains(report(kOwn + kCopy + "ld.shared.u32 %r4, [%r2];\n"), "bytes of a copy in flight"));
    CHECK(contains(report(kOwn + kCopy + "st.shared.u32 [%r2], %r1;\n"), "bytes of a copy in flight"));
    CHECK(contains(report(kOwn + kCopy + kCopy + "cp.async.wait_group 0;\n"), "bytes of a copy in flight"));
    CHECK(contains(
        report(kOwn + kCopy + "cp.async.commit_group;\ncp.async.wait_group 2;\nld.shared.u32 %r4, [%r2];\n"),
        "bytes of a copy in flight"));
    CHECK(contains(report(kOwn + kCopy), "ended with cp.async in flight"));
  }
  CHECK(contains(
      report(kOwn + "mov.u32 %r4, 17;\ncp.async.cg.shared.global.L2::128B [%r2], [%rd3], 16, %r4;\n"),
      "of which 17 are read"));
  CHECK(contains(report(kOwn + "cp.async.cg.shared.global.L2::128B [%r2+8], [%rd3], 16;\n"),
                 "not a multiple of 16"));
  CHECK(contains(report(kOwn + "cp.async.cg.shared.global.L2::128B [%r2], [%rd3+8], 16;\n"),
                 "not a multiple of 16"));
}

namespace {

// Thread 0 makes a barrier of so many arrivals at `gate` (%r10) that copies may signal; everybody waits for that.
std::string gate_of(int arrivals) {
  return error_text("mov.u32 %r10, gate;\nmov.u32 %r11, ", arrivals,
                    ";\nsetp.eq.u32 %p9, %r1, 0;\n@%p9 mbarrier.init.shared::cta.b64 [%r10], %r11;\n"
                    "fence.mbarrier_init.release.cluster;\nbar.sync 0;\n");
}
std::string wait_for(const std::string& parity, int number) {
  return error_text("mov.u32 %r12, ", parity, ";\nAGAIN", number,
                    ": mbarrier.try_wait.parity.shared::cta.b64 %p8, [%r10], %r12;\n@!%p8 bra AGAIN", number,
                    ";\n");
}

}  // namespace

TEST(mbarriers_count_arrivals_and_bytes) {
  // Two phases of 64 arrivals: what a thread writes before it arrives, others read after they have waited.
  std::vector<uint64_t> want(64);
  for (size_t i = 0; i < 64; ++i) want[i] = 2 * (63 - i);
  check_all(
      {.body = kOwn + gate_of(64) +
               "st.shared.u32 [%r2], %r1;\nmbarrier.arrive.shared::cta.b64 _, [%r10];\n" + wait_for("0", 1) +
               "sub.s32 %r4, 63, %r1;\nshl.b32 %r4, %r4, 4;\nadd.s32 %r4, %r4, %r3;\n"
               "ld.shared.u32 %r5, [%r4];\nmbarrier.arrive.shared::cta.b64 _, [%r10];\n" +
               wait_for("1", 2) + "add.s32 %r5, %r5, %r5;\n" + store_word("%r5"),
       .module = kShared,
       .in = {},
       .out_words = 64,
       .threads = 64,
       .bounds = {}},
      want);
  // A bulk copy of 512 bytes in two parts, one of them started before the other is expected.
  const std::vector<uint64_t> in = numbers(64);
  check_all(
      {.body =
           kOwn + gate_of(1) +
           "@!%p9 bra WAIT;\nmov.u32 %r13, 512;\nmbarrier.arrive.expect_tx.shared::cta.b64 _, [%r10], "
           "%r13;\nmov.u32 %r13, 256;\n"
           "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r3], [%rd1], %r13, [%r10];\n"
           "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r3+256], [%rd1+256], %r13, "
           "[%r10];\nWAIT:\n" +
           wait_for("0", 1) + "shl.b32 %r4, %r1, 3;\nadd.s32 %r4, %r4, %r3;\nld.shared.u64 %rd5, [%r4];\n" +
           store_result(5),
       .module = kShared,
       .in = in,
       .out_words = 64,
       .threads = 64,
       .bounds = {}},
      in);
}

TEST(misuse_of_mbarriers_is_reported) {
  CHECK(contains(report(gate_of(1) + "mbarrier.arrive.shared::cta.b64 _, [%r10+8];\n"),
                 "no mbarrier was initialised"));
  CHECK(contains(report(gate_of(16) +
                        "mov.u32 %r13, 16;\n@%p9 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r10], %r13;\n"
                        "@!%p9 mbarrier.arrive.shared::cta.b64 _, [%r10];\n"),
                 "once more than the mbarrier's count"));
  CHECK(contains(report(gate_of(1) + wait_for("0", 1)), "deadlock"));
  CHECK(
      contains(report(gate_of(1) +
                      "mov.u32 %r13, 16;\n@%p9 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r10], %r13;\n"),
               "16 bytes expected by the mbarrier"));
  CHECK(contains(report(gate_of(1) + "ld.shared.u64 %rd5, [%r10];\n"), "part of an mbarrier"));
  CHECK(contains(report(gate_of(0)), "an mbarrier of 0 arrivals"));
  CHECK(contains(report(gate_of(1) + wait_for("2", 1)), "a parity of 2"));
  const std::string copy =
      "mov.u32 %r13, 16;\n@%p9 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r10], %r13;\nmov.u32 %r3, "
      "here;\n"
      "@%p9 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r3], [%rd1], %r13, [%r10];\n";
  std::string unfenced = gate_of(1);
  unfenced.erase(unfenced.find("fence.mbarrier_init"),
                 std::string("fence.mbarrier_init.release.cluster;\n").size());
  CHECK(contains(report(unfenced + copy), "without fence.mbarrier_init"));
  for (const auto& o : schedules()) {
    const WithOptions with(o);
    const std::string early = report(gate_of(1) + copy + "ld.shared.u32 %r4, [here];\n" + wait_for("0", 1));
    CHECK(contains(early, o.async == simt::Async::kLazy ? "bytes of a copy in flight" : ""));
    CHECK(!early.empty());  // a race at least
  }
  CHECK(contains(
      report(
          gate_of(1) +
          "mov.u32 %r13, 24;\nmov.u32 %r3, here;\n@%p9 "
          "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r3], [%rd1], %r13, [%r10];\n"),
      "16 at a time"));
}

TEST(registers_move_between_warp_groups) {
  const std::string bounds = ".maxntid 256, 1, 1\n.minnctapersm 1\n";
  const auto run = [&](int fewer, int more) {
    return report_of(Snippet{
        .body = error_text("setp.lt.u32 %p1, %r1, 128;\n@%p1 bra LOW;\nsetmaxnreg.inc.sync.aligned.u32 ",
                           more, ";\nbra END;\nLOW: setmaxnreg.dec.sync.aligned.u32 ", fewer, ";\nEND:\n"),
        .in = {},
        .threads = 256,
        .bounds = bounds});
  };
  // 65536 / 256 registers, at most 255 in eights: 248 each at first.
  CHECK_EQ(run(240, 256), "");
  CHECK(contains(run(248, 256), "deadlock"));
  CHECK(contains(run(256, 256), "gives registers back down to 256"));
  CHECK(contains(run(40, 240), "asks for 240 registers and has 248"));
  CHECK(contains(run(41, 248), "a multiple of 8"));
}

}  // namespace llama4rt::test
