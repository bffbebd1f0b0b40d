// cp.async: 16 bytes from global to shared memory, in groups of each thread. PTX ISA, "cp.async": both sides are aligned to
// 16 bytes; what lies beyond the source's size becomes zero and is not read.
//
// From issue to the wait that covers it the bytes are in flight: nobody may touch them, whether they have landed or not.
#include <cstring>

#include "base/error.h"
#include "ptx_executor/block.h"
#include "ptx_executor/forms.h"
#include "ptx_executor/global_space.h"
#include "ptx_executor/grid.h"
#include "ptx_executor/schedule.h"
#include "ptx_executor/warp.h"

namespace llama4rt::ptx_executor {
namespace {

constexpr int kBytes = 16;

void land(Block& b, LaneCopy& c) {
  if (c.landed) return;
  c.landed = true;
  b.shared.land(c.to, c.from, c.read, kBytes);
}

// imm: offset of the destination; c: the unit of the size, b: that of the source's address.
void run_copy(Warp& w, const Instruction& i) {
  Block& b = *w.block;
  const bool now = lands_at_issue();
  const uint32_t* pool = w.program->pool.data() + i.d;
  const auto source_offset = int64_t(int32_t(pool[0]));
  for_each_lane(w.mask, [&](int lane) {
    const uint32_t to = w.lanes<uint32_t>(i.a)[lane] + uint32_t(i.imm);
    const uint64_t from = w.lanes<uint64_t>(i.b)[lane] + uint64_t(source_offset);
    const uint32_t size = i.c == kNoUnit ? uint32_t(kBytes) : w.lanes<uint32_t>(i.c)[lane];
    if (size > uint32_t(kBytes)) w.fault(lane, error_text("copies 16 bytes of which ", size, " are read"));
    LaneCopy copy{.to = to, .from = {}, .read = int(size), .landed = false};
    b.shared.at(w, lane, to, kBytes, kBytes);
    if (size > 0) {
      GlobalSpace& g = *b.grid->global;
      const GlobalSpace::Place place = g.at(w, lane, from, int64_t(size), kBytes);
      g.read(w, lane, place, int64_t(size));
      copy.from = place;
    } else if (from % kBytes != 0) {
      w.fault(lane, "the source is not a multiple of 16");
    }
    if (b.order) b.order->write_shared(w, lane, to, kBytes, Order::How::kPlain);
    b.shared.set(to, kBytes, SharedSpace::kInFlight, SharedSpace::kWritten);
    if (now) land(b, copy);
    b.copies_of(w, lane).open.push_back(copy);
  });
}
void build_copy(Decoder& d, Instruction& i) {
  if (d.statement().operands.size() != 3) d.operands(4);
  d.literal_is(2, kBytes);
  i.a = d.shared_address(0, i.imm);
  const Decoder::Address from = d.address(1, Space::kGlobal);
  i.b = from.base;
  i.d = d.put({d.short_offset(from)});
  if (d.statement().operands.size() == 4) i.c = d.source(3, kU32);
  i.run = run_copy;
}

void run_commit(Warp& w, const Instruction&) {
  for_each_lane(w.mask, [&](int lane) {
    LaneCopies& mine = w.block->copies_of(w, lane);
    mine.groups.push_back(std::move(mine.open));
    mine.open.clear();
  });
}
void build_commit(Decoder& d, Instruction& i) {
  d.operands(0);
  i.run = run_commit;
}

// imm: how many groups may stay in flight.
void run_wait(Warp& w, const Instruction& i) {
  Block& b = *w.block;
  for_each_lane(w.mask, [&](int lane) {
    LaneCopies& mine = b.copies_of(w, lane);
    for (; mine.groups.size() > size_t(i.imm); mine.groups.pop_front())
      for (LaneCopy& copy : mine.groups.front()) {
        land(b, copy);
        b.shared.set(copy.to, kBytes, SharedSpace::kNothing, SharedSpace::kInFlight);
        if (b.order) b.order->write_shared(w, lane, copy.to, kBytes, Order::How::kPlain);
      }
  });
}
void build_wait(Decoder& d, Instruction& i) {
  d.operands(1);
  i.imm = int64_t(d.literal(0));
  if (i.imm < 0) d.refuse("a negative number of groups");
  i.run = run_wait;
}

}  // namespace

void add_copy_forms(Forms& f) {
  f.add("cp.async.cg.shared.global.L2::128B", build_copy);
  f.add("cp.async.commit_group", build_commit);
  f.add("cp.async.wait_group", build_wait);
}

}  // namespace llama4rt::ptx_executor
