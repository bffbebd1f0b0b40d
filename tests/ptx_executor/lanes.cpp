// Exchange of registers between lanes, and barriers of a warp. PTX ISA, "shfl.sync", "vote.sync", "match.sync",
// "bar.warp.sync".
#include <bit>

#include "base/error.h"
#include "ptx_executor/block.h"
#include "ptx_executor/forms.h"
#include "ptx_executor/warp.h"

namespace llama4rt::ptx_executor {
namespace {

enum class Direction { kUp, kDown, kButterfly, kIndex };

// As the ISA writes it down: c holds the highest lane of a segment in its low bits (clamp) and the bits of the lane that
// name the segment above them.
template <Direction kDirection>
void run_shuffle(Warp& w, const Instruction& i) {
  uint32_t values[kLanes];
  const uint32_t *a = w.lanes<uint32_t>(i.a), *b = w.lanes<uint32_t>(i.b), *c = w.lanes<uint32_t>(i.c);
  for_each_lane(w.mask, [&](int l) {
    const auto lane = uint32_t(l);
    const uint32_t by = b[l] & 31u, clamp = c[l] & 31u, segment = c[l] >> 8 & 31u;
    const uint32_t highest = (lane & segment) | (clamp & ~segment), lowest = lane & segment;
    uint32_t from = lane;
    bool valid = true;
    switch (kDirection) {
      case Direction::kUp:
        from = lane - by;
        valid = int32_t(from) >= int32_t(highest);
        break;
      case Direction::kDown:
        from = lane + by;
        valid = from <= highest;
        break;
      case Direction::kButterfly:
        from = lane ^ by;
        valid = from <= highest;
        break;
      case Direction::kIndex:
        from = lowest | (by & ~segment);
        valid = from <= highest;
        break;
    }
    if (!valid) from = lane;
    if ((w.mask >> from & 1u) == 0)
      w.fault(l, error_text("shuffles from lane ", from, ", which does not take part"));
    values[l] = a[from];
  });
  uint32_t* d = w.lanes<uint32_t>(i.d);
  for_each_lane(w.mask, [&](int l) { d[l] = values[l]; });
}
template <Direction kDirection>
void build_shuffle(Decoder& d, Instruction& i) {
  d.operands(5);
  i.a = d.source(1, kB32);
  i.b = d.source(2, kB32);
  i.c = d.source(3, kB32);
  i.members = d.members(4);
  i.d = d.destination(0, kB32);
  i.flow = Flow::kCollective;
  i.run = run_shuffle<kDirection>;
}

void run_ballot(Warp& w, const Instruction& i) {
  const uint32_t votes = w.predicate(i.a) & w.mask;
  for_each_lane(w.mask, [&](int lane) { w.lanes<uint32_t>(i.d)[lane] = votes; });
}
void build_ballot(Decoder& d, Instruction& i) {
  d.operands(3);
  i.a = d.source(1, kPredicate);
  i.members = d.members(2);
  i.d = d.destination(0, kB32);
  i.flow = Flow::kCollective;
  i.run = run_ballot;
}

void run_match_any(Warp& w, const Instruction& i) {
  uint32_t values[kLanes];
  const uint32_t* a = w.lanes<uint32_t>(i.a);
  for_each_lane(w.mask, [&](int lane) {
    values[lane] = 0;
    for_each_lane(w.mask, [&](int other) { values[lane] |= a[other] == a[lane] ? 1u << other : 0u; });
  });
  for_each_lane(w.mask, [&](int lane) { w.lanes<uint32_t>(i.d)[lane] = values[lane]; });
}
void build_match_any(Decoder& d, Instruction& i) {
  d.operands(3);
  i.a = d.source(1, kB32);
  i.members = d.members(2);
  i.d = d.destination(0, kB32);
  i.flow = Flow::kCollective;
  i.run = run_match_any;
}

void run_warp_barrier(Warp& w, const Instruction&) {
  if (w.block->order) w.block->order->meet(w, w.mask);
}
void build_warp_barrier(Decoder& d, Instruction& i) {
  d.operands(1);
  i.members = d.members(0);
  i.flow = Flow::kCollective;
  i.run = run_warp_barrier;
}

}  // namespace

void add_lane_forms(Forms& f) {
  f.add("shfl.sync.up.b32", build_shuffle<Direction::kUp>);
  f.add("shfl.sync.down.b32", build_shuffle<Direction::kDown>);
  f.add("shfl.sync.bfly.b32", build_shuffle<Direction::kButterfly>);
  f.add("shfl.sync.idx.b32", build_shuffle<Direction::kIndex>);
  f.add("vote.sync.ballot.b32", build_ballot);
  f.add("match.any.sync.b32", build_match_any);
  f.add("bar.warp.sync", build_warp_barrier);
}

}  // namespace llama4rt::ptx_executor
