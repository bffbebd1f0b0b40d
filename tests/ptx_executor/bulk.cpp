// Bulk copies of bytes, started by one thread. PTX ISA, "cp.async.bulk": sizes and both addresses are multiples of 16; the
// bytes that land are taken off what an mbarrier expects. Also the groups that bulk stores are waited for in.
#include "ptx_executor/bulk.h"

#include "base/error.h"
#include "ptx_executor/forms.h"
#include "ptx_executor/global_space.h"
#include "ptx_executor/grid.h"
#include "ptx_executor/schedule.h"
#include "ptx_executor/warp.h"

namespace llama4rt::ptx_executor {
namespace {

constexpr int kAlignment = 16;

// pool: source's unit, its offset, size's unit, mbarrier's unit, its offset.
void run_load(Warp& w, const Instruction& i) {
  Block& b = *w.block;
  const uint32_t* pool = w.program->pool.data() + i.d;
  for_each_lane(w.mask, [&](int lane) {
    const uint32_t to = w.lanes<uint32_t>(i.a)[lane] + uint32_t(i.imm);
    const uint64_t from = w.lanes<uint64_t>(pool[0])[lane] + uint64_t(int64_t(int32_t(pool[1])));
    const uint32_t size = w.lanes<uint32_t>(pool[2])[lane];
    const uint32_t barrier = w.lanes<uint32_t>(pool[3])[lane] + pool[4];
    if (size == 0 || size % kAlignment != 0)
      w.fault(lane, error_text("copies ", size, " bytes; 16 at a time"));
    GlobalSpace& g = *b.grid->global;
    const GlobalSpace::Place place = g.at(w, lane, from, size, kAlignment);
    g.read(w, lane, place, size);
    const Issue issue = begin_load(w, lane, to, size, kAlignment, barrier);
    start(b, error_text("a bulk copy of ", size, " bytes"), [&b, to, size, barrier, place, issue] {
      b.shared.land(to, place, size, size);
      end_load(b, to, size, barrier, issue);
    });
  });
}
void build_load(Decoder& d, Instruction& i) {
  d.operands(4);
  i.a = d.shared_address(0, i.imm);
  const Decoder::Address from = d.address(1, Space::kGlobal);
  const Unit size = d.source(2, kU32);
  Decoder::Address barrier;
  barrier.base = d.shared_address(3, barrier.offset);
  i.d = d.put({from.base, d.short_offset(from), size, barrier.base, d.short_offset(barrier)});
  i.run = run_load;
}

void run_commit(Warp& w, const Instruction&) {
  for_each_lane(w.mask, [&](int lane) {
    LaneCopies& mine = w.block->copies_of(w, lane);
    mine.store_groups.push_back(std::move(mine.open_stores));
    mine.open_stores.clear();
  });
}
void build_commit(Decoder& d, Instruction& i) {
  d.operands(0);
  i.run = run_commit;
}
void run_wait(Warp& w, const Instruction& i) {
  for_each_lane(w.mask, [&](int lane) {
    LaneCopies& mine = w.block->copies_of(w, lane);
    for (; mine.store_groups.size() > size_t(i.imm); mine.store_groups.pop_front())
      for (const auto& land : mine.store_groups.front()) land();
  });
}
void build_wait(Decoder& d, Instruction& i) {
  d.operands(1);
  i.imm = int64_t(d.literal(0));
  if (i.imm < 0) d.refuse("a negative number of groups");
  i.run = run_wait;
}

}  // namespace

Issue begin_load(Warp& w, int lane, uint32_t to, int64_t bytes, int alignment, uint32_t barrier) {
  Block& b = *w.block;
  const Mbarrier& m = mbarrier_at(w, lane, barrier);
  if (!m.fenced)
    w.fault(lane, "signals an mbarrier that was initialised without fence.mbarrier_init behind it");
  b.shared.at(w, lane, to, int(bytes), alignment);
  b.shared.set(to, bytes, SharedSpace::kInFlight, SharedSpace::kWritten);
  Issue issue{.thread = w.index * kLanes + lane};
  if (b.order) {
    b.order->write_shared(w, lane, to, bytes, Order::How::kAsync);
    issue.count = b.order->start_copy(w);
  }
  return issue;
}

void end_load(Block& b, uint32_t to, int64_t bytes, uint32_t barrier, const Issue& issue) {
  b.shared.set(to, bytes, SharedSpace::kNothing, SharedSpace::kInFlight);
  complete_bytes(b, barrier, bytes, issue);
}

void start(Block& b, std::string what, std::function<void()> land) {
  if (lands_at_issue())
    land();
  else
    b.copies.push_back({std::move(land), std::move(what)});
}

void add_bulk_forms(Forms& f) {
  f.add("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes", build_load);
  f.add("cp.async.bulk.commit_group", build_commit);
  f.add("cp.async.bulk.wait_group", build_wait);
}

}  // namespace llama4rt::ptx_executor
