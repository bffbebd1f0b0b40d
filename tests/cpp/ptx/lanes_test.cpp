// Lanes that exchange registers, and lanes that part and meet again.
#include "ptx/snippet.h"

namespace llama4rt::test {
namespace {

// For each lane, the result of the shuffle of (lane + 100) by `by` with this control word.
std::vector<uint64_t> shuffled(const std::string& direction, const std::string& by, int control) {
  return run_snippet({.body = "add.s32 %r2, %r1, 100;\n" + by + "shfl.sync." + direction +
                              ".b32 %r4, %r2, %r3, " + std::to_string(control) + ", 0xffffffff;\n" +
                              store_word("%r4")});
}

}  // namespace

// As the words of the ISA have it: up, down and butterfly keep their own value where there is no partner in the segment.
TEST(shuffles_stay_in_their_segment) {
  const std::string three = "mov.u32 %r3, 3;\n";
  for (const int width : {32, 16, 8}) {
    SCOPE("segments of ", width);
    const int segment = 32 - width, clamp = 31;
    const auto up = shuffled("up", three, segment << 8), down = shuffled("down", three, segment << 8 | clamp);
    const auto butterfly = shuffled("bfly", three, segment << 8 | clamp);
    const auto index = shuffled("idx", "mul.lo.u32 %r3, %r1, 7;\n", segment << 8 | clamp);
    for (int lane = 0; lane < 32; ++lane) {
      const int base = lane / width * width;
      CHECK_EQ(up[size_t(lane)], uint64_t(100 + (lane - 3 >= base ? lane - 3 : lane)));
      CHECK_EQ(down[size_t(lane)], uint64_t(100 + (lane + 3 < base + width ? lane + 3 : lane)));
      CHECK_EQ(butterfly[size_t(lane)], uint64_t(100 + (lane ^ 3)));
      CHECK_EQ(index[size_t(lane)], uint64_t(100 + base + lane * 7 % width));
    }
  }
}

TEST(votes_and_matches) {
  const auto votes = run_snippet(
      {.body =
           "and.b32 %r2, %r1, 1;\nsetp.eq.u32 %p1, %r2, 1;\nvote.sync.ballot.b32 %r3, %p1, 0xffffffff;\n" +
           store_word("%r3")});
  const auto matches = run_snippet(
      {.body = "rem.u32 %r2, %r1, 5;\nmatch.any.sync.b32 %r3, %r2, 0xffffffff;\n" + store_word("%r3")});
  for (uint64_t lane = 0; lane < 32; ++lane) {
    CHECK_EQ(votes[lane], 0xaaaaaaaau);
    uint64_t want = 0;
    for (uint64_t other = 0; other < 32; ++other) want |= uint64_t(other % 5 == lane % 5) << other;
    CHECK_EQ(matches[lane], want);
  }
}

// A mask in a register: each half of the warp among itself, in divergent code.
TEST(a_part_of_a_warp_exchanges_by_itself) {
  const auto found = run_snippet(
      {.body =
           "setp.lt.u32 %p1, %r1, 8;\nselp.b32 %r2, 255, -256, %p1;\n@%p1 bra LOW;\nadd.s32 %r3, %r1, "
           "1000;\nbra JOIN;\n"
           "LOW: add.s32 %r3, %r1, 2000;\nJOIN:\nbar.warp.sync %r2;\nvote.sync.ballot.b32 %r4, %p1, %r2;\n" +
           store_word("%r4")});
  for (size_t lane = 0; lane < 32; ++lane) CHECK_EQ(found[lane], lane < 8 ? 255u : 0u);
}

// Every schedule gives the same: lanes leave a loop one after the other, and meet behind it.
TEST(lanes_part_and_meet) {
  const std::string loop =
      "mov.u32 %r2, 0;\nmov.u32 %r3, 0;\nLOOP: add.s32 %r2, %r2, %r3;\nadd.s32 %r3, %r3, 1;\nsetp.le.u32 "
      "%p1, %r3, %r1;\n"
      "@%p1 bra LOOP;\nand.b32 %r4, %r1, 3;\nsetp.eq.u32 %p2, %r4, 0;\n@!%p2 bra ODD;\nadd.s32 %r2, %r2, "
      "1000;\nbra.uni END;\n"
      "ODD: setp.eq.u32 %p3, %r4, 1;\n@%p3 add.s32 %r2, %r2, 2000;\nEND: shfl.sync.bfly.b32 %r5, %r2, 1, 31, "
      "0xffffffff;\n";
  for (const auto& o : schedules()) {
    SCOPE(describe(o));
    const WithOptions with(o);
    const auto found = run_snippet({.body = loop + store_word("%r5")});
    for (uint64_t lane = 0; lane < 32; ++lane) {
      const uint64_t from = lane ^ 1, more = from % 4 == 0 ? 1000 : from % 4 == 1 ? 2000 : 0;
      CHECK_EQ(found[lane], from * (from + 1) / 2 + more);
    }
  }
}

TEST(lanes_that_exit_are_not_waited_for) {
  const auto found = run_snippet({.body = "setp.lt.u32 %p1, %r1, 16;\n@%p1 exit;\nvote.sync.ballot.b32 %r3, "
                                          "%p1, 0xffffffff;\nbar.sync 0;\n" +
                                          store_word("%r1"),
                                  .in = {},
                                  .out_words = 64,
                                  .threads = 64,
                                  .bounds = {}});
  for (size_t i = 0; i < 64; ++i) CHECK_EQ(found[i], i < 16 ? ~uint64_t(0) : i);
}

TEST(a_collective_that_some_lanes_never_reach_is_reported) {
  const std::string half = "setp.lt.u32 %p1, %r1, 16;\n@%p1 bra LOW;\n";
  // Two instructions for one exchange.
  const std::string report =
      report_of(Snippet{.body = half + "shfl.sync.bfly.b32 %r2, %r1, 1, 31, 0xffffffff;\nbra END;\n"
                                       "LOW: shfl.sync.bfly.b32 %r2, %r1, 1, 31, 0xffffffff;\nEND:\n"});
  CHECK(contains(report, "wait for each other at different places"));
  CHECK(contains(report, "lanes ffff at"));
  CHECK(contains(report_of(Snippet{
                     .body = half + "bar.warp.sync -1;\nLOW: vote.sync.ballot.b32 %r2, %p1, 0xffffffff;\n"}),
                 "wait for each other at different places"));
  CHECK(contains(report_of(Snippet{.body = half + "LOW: mov.u32 %r2, 255;\nbar.warp.sync %r2;\n"}),
                 "names lanes without itself"));
  // A shuffle from a lane that has gone.
  CHECK(contains(report_of(Snippet{.body = "setp.eq.u32 %p1, %r1, 0;\n@%p1 exit;\nmov.u32 %r2, 0;\n"
                                           "shfl.sync.idx.b32 %r3, %r1, %r2, 31, 0xffffffff;\n"}),
                 "shuffles from lane 0, which does not take part"));
  CHECK(contains(report_of(Snippet{.body = half + "LOW: @%p1 bra.uni END;\nEND:\n"}), "said to be uniform"));
}

TEST(special_registers_say_where_a_thread_is) {
  const auto found = run_snippet(
      {.body =
           "mov.u32 %r2, %ctaid.x;\nmov.u32 %r3, %ntid.x;\nmad.lo.s32 %r1, %r2, %r3, %r1;\nmov.u32 %r4, "
           "%nctaid.x;\n"
           "mov.u32 %r5, %ctaid.y;\nmov.u32 %r6, %ctaid.z;\nmov.u32 %r7, %nctaid.y;\nmov.u32 %r8, "
           "%nctaid.z;\n"
           "shl.b32 %r4, %r4, 16;\nor.b32 %r4, %r4, %r1;\nadd.s32 %r4, %r4, %r5;\nadd.s32 %r4, %r4, %r6;\n"
           "add.s32 %r4, %r4, %r7;\nadd.s32 %r4, %r4, %r8;\n" +
           store_word("%r4"),
       .in = {},
       .out_words = 120,
       .threads = 40,
       .blocks = 3,
       .bounds = {}});
  for (size_t i = 0; i < 120; ++i) CHECK_EQ(found[i], (3u << 16 | i) + 2u);
}

}  // namespace llama4rt::test
