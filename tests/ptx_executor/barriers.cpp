// Barriers of the block, and fences. PTX ISA, "bar" (aligned: all lanes of a warp come together) and "membar/fence".
// A barrier counts threads, a whole warp at a time; without a count it waits for all threads that have not exited.
#include <algorithm>

#include "base/error.h"
#include "ptx_executor/block.h"
#include "ptx_executor/forms.h"
#include "ptx_executor/warp.h"

namespace llama4rt::ptx_executor {
namespace {

// The same value in all lanes.
uint32_t uniform(Warp& w, Unit u, const char* what) {
  const uint32_t* lanes = w.lanes<uint32_t>(u);
  const uint32_t value = lanes[std::countr_zero(w.mask)];
  for_each_lane(w.mask, [&](int lane) {
    if (lanes[lane] != value) w.fault(lane, error_text(what, " differs between lanes"));
  });
  return value;
}

int live_threads(const Block& b) {
  int threads = 0;
  for (const Warp& w : b.warps)
    if (!w.splits.empty()) threads += kLanes;
  return threads;
}

void complete(Block& b, Barrier& barrier) {
  if (b.order)
    for (const int warp : barrier.waiting) b.order->acquire(b.warps[size_t(warp)], kAllLanes, barrier.view);
  barrier.view = nullptr;
  barrier.expected = barrier.arrived = 0;
  ++barrier.generation;
  barrier.waiting.clear();
  ++b.events;
}

// Counts this warp. expected: threads, 0: all of the block.
void arrive(Warp& w, Barrier& barrier, int expected) {
  Block& b = *w.block;
  const int wanted = expected == 0 ? -1 : expected;
  if (expected % kLanes != 0) w.fault(error_text("a barrier of ", expected, " threads, no multiple of 32"));
  if (expected > int(b.warps.size()) * kLanes) w.fault(error_text("a barrier of ", expected, " threads"));
  if (barrier.expected != 0 && barrier.expected != wanted)
    w.fault(error_text("a barrier of ", expected, " threads, of which others wait with ",
                       std::max(barrier.expected, 0)));
  if (b.order) b.order->release(w, w.mask, barrier.view);
  barrier.expected = wanted;
  barrier.arrived += kLanes;
  ++b.events;
  const int goal = wanted < 0 ? live_threads(b) : wanted;
  if (barrier.arrived >= goal) complete(b, barrier);
}

Barrier& barrier_of(Warp& w, const Instruction& i) {
  const uint32_t number = uniform(w, i.a, "the number of a barrier");
  if (number >= kNumBarriers) w.fault(error_text("barrier ", number, "; there are 16"));
  return w.block->barriers[number];
}

// b: the unit of the count, or none.
void run_sync(Warp& w, const Instruction& i) {
  Barrier& barrier = barrier_of(w, i);
  uint64_t& waits_at = w.block->waits_at[size_t(w.index)];
  if (waits_at == 0) {
    waits_at = barrier.generation + 1;
    barrier.waiting.push_back(w.index);
    arrive(w, barrier, i.b == kNoUnit ? 0 : int(uniform(w, i.b, "the threads of a barrier")));
  }
  if (barrier.generation + 1 == waits_at) {
    w.retry = true;
    return;
  }
  waits_at = 0;
}
void run_arrive(Warp& w, const Instruction& i) {
  arrive(w, barrier_of(w, i), int(uniform(w, i.b, "the threads of a barrier")));
}
void build_sync(Decoder& d, Instruction& i) {
  if (d.statement().operands.size() != 1) d.operands(2);
  i.a = d.source(0, kU32);
  if (d.statement().operands.size() == 2) i.b = d.source(1, kU32);
  i.flow = Flow::kCollective;
  i.run = run_sync;
}
void build_arrive(Decoder& d, Instruction& i) {
  d.operands(2);
  i.a = d.source(0, kU32);
  i.b = d.source(1, kU32);
  i.flow = Flow::kCollective;
  i.run = run_arrive;
}

void run_fence(Warp& w, const Instruction&) {
  if (w.block->order) w.block->order->fence(w, w.mask);
}
void run_proxy_fence(Warp& w, const Instruction&) {
  if (w.block->order) w.block->order->fence_proxy(w, w.mask);
}
template <void (*kRun)(Warp&, const Instruction&)>
void build_fence(Decoder& d, Instruction& i) {
  d.operands(0);
  i.run = kRun;
}

}  // namespace

void lanes_left_barriers(Warp& w) {
  Block& b = *w.block;
  for (Barrier& barrier : b.barriers)
    if (barrier.expected < 0 && barrier.arrived > 0 && barrier.arrived >= live_threads(b))
      complete(b, barrier);
}

void add_barrier_forms(Forms& f) {
  f.add("bar.sync", build_sync);
  f.add("bar.arrive", build_arrive);
  f.add("fence.acq_rel.gpu", build_fence<run_fence>);
  f.add("fence.proxy.async.shared::cta", build_fence<run_proxy_fence>);
}

}  // namespace llama4rt::ptx_executor
