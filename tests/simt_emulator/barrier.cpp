#include "simt_emulator/barrier.h"

#include "base/error.h"
#include "simt_emulator/checker.h"
#include "simt_emulator/faults.h"
#include "simt_emulator/warp.h"

namespace llama4rt::simt {
namespace {

bool complete(const Block& b, int id) {
  const Barrier& bar = b.barriers[id];
  if (bar.arrived == 0) return false;
  return bar.expected > 0 ? bar.arrived == bar.expected : bar.arrived == b.live;
}

void release(Block& b, int id) {
  Barrier& bar = b.barriers[id];
  const bool whole_block = (bar.expected == 0 || bar.expected == int(b.threads.size())) &&
                           bar.waiting.size() == bar.arrivals.size();
  if (whole_block)
    checker::block_barrier(b);
  else
    checker::named_barrier(b, bar.arrivals, bar.waiting);
  for (const int id_of : bar.waiting) b.threads[size_t(id_of)]->state = State::kReady;
  const int result = bar.predicate_count;
  bar = {};
  bar.result = result;
}

// Lanes of one warp must wait at one line: hardware counts warps, not threads.
void check_line(Block& b, Barrier& bar, const Thread& t, Site site) {
  bar.warp_site.resize(b.warps.size());
  Site& line = bar.warp_site[size_t(t.warp)];
  if (line.line == 0)
    line = site;
  else if (!(line == site))
    fail(error_text("divergent code: lanes of one warp wait at a barrier at ", line.text(), " and at ",
                    site.text()));
}

void arrive(int id, int expected, bool waits, Site site) {
  Thread& t = self();
  Block& b = *t.block;
  if (id < 0 || id >= kNumBarriers) fail_at(site, error_text("barrier ", id, " does not exist"));
  Barrier& bar = b.barriers[id];
  if (expected % kWarpSize != 0 || expected > (int(b.threads.size()) + 31) / 32 * 32)
    fail_at(site, error_text("barrier ", id, " for ", expected, " threads in a block of ", b.threads.size()));
  if (bar.arrived > 0 && bar.expected != expected)
    fail_at(site, error_text("barrier ", id, " for ", expected, " threads; others said ", bar.expected));
  check_line(b, bar, t, site);
  bar.expected = expected;
  ++bar.arrived;
  bar.arrivals.push_back(t.id);
  if (waits) bar.waiting.push_back(t.id);
  t.barrier = id;
  t.site = site;
  if (waits) t.state = State::kInBarrier;
  if (complete(b, id)) {
    release(b, id);
    return;  // made ready together with the others
  }
  if (waits) park(State::kInBarrier);
}

}  // namespace

void sync_block(Site site) {
  InRuntime guard;
  if (fault_at(FaultKind::kBarrier, site)) return;
  arrive(0, 0, true, site);
}

int sync_block_count(bool predicate, Site site) {
  InRuntime guard;
  if (fault_at(FaultKind::kBarrier, site)) return predicate ? 1 : 0;
  Barrier& bar = self().block->barriers[0];
  bar.predicate_count += predicate;
  arrive(0, 0, true, site);
  return bar.result;
}

void sync_named(int barrier, int num_threads, Site site) {
  InRuntime guard;
  if (fault_at(FaultKind::kBarrier, site)) return;
  arrive(barrier, num_threads, true, site);
}

void arrive_named(int barrier, int num_threads, Site site) {
  InRuntime guard;
  if (fault_at(FaultKind::kBarrier, site)) return;
  arrive(barrier, num_threads, false, site);
}

void retest_barrier(Block& b) {
  if (b.live > 0 && b.barriers[0].expected == 0 && complete(b, 0)) release(b, 0);
}

}  // namespace llama4rt::simt
