// Barriers in shared memory. PTX ISA, "mbarrier": a phase ends when all its arrivals have come and the bytes that it
// expects have been copied. A wait names the parity of a phase: it is over when the current one has the other parity.
#include "base/error.h"
#include "ptx_executor/bulk.h"
#include "ptx_executor/forms.h"
#include "ptx_executor/warp.h"

namespace llama4rt::ptx_executor {
namespace {

constexpr uint32_t kMostArrivals = (1 << 20) - 1;

uint32_t address_of(Warp& w, const Instruction& i, int lane) {
  return w.lanes<uint32_t>(i.a)[lane] + uint32_t(i.imm);
}

void run_init(Warp& w, const Instruction& i) {
  Block& b = *w.block;
  ++b.events;
  for_each_lane(w.mask, [&](int lane) {
    const uint32_t address = address_of(w, i, lane), count = w.lanes<uint32_t>(i.b)[lane];
    if (count == 0 || count > kMostArrivals) w.fault(lane, error_text("an mbarrier of ", count, " arrivals"));
    b.shared.at(w, lane, address, 8, 8);
    b.shared.set(address, 8, SharedSpace::kMbarrier, SharedSpace::kNothing);
    Mbarrier& m = b.mbarriers[address] = {};
    m.count = m.pending = count;
    m.initialiser = w.index * kLanes + lane;
  });
}
void build_init(Decoder& d, Instruction& i) {
  d.operands(2);
  build_mbarrier_address(d, i, 0);
  i.b = d.source(1, kU32);
  i.run = run_init;
}

void settle(Block& b, Mbarrier& m) {
  if (m.pending != 0 || m.bytes != 0) return;
  ++m.phase;
  join(m.known, m.arriving);
  m.arriving = nullptr;
  m.pending = m.count;
  ++b.events;
}

void arrive(Warp& w, int lane, Mbarrier& m) {
  if (m.pending == 0) w.fault(lane, error_text("arrives once more than the mbarrier's count of ", m.count));
  if (w.block->order) w.block->order->release(w, 1u << lane, m.arriving);
  --m.pending;
  ++w.block->events;
  settle(*w.block, m);
}
void run_arrive(Warp& w, const Instruction& i) {
  for_each_lane(w.mask, [&](int lane) { arrive(w, lane, mbarrier_at(w, lane, address_of(w, i, lane))); });
}
void run_arrive_expect(Warp& w, const Instruction& i) {
  for_each_lane(w.mask, [&](int lane) {
    Mbarrier& m = mbarrier_at(w, lane, address_of(w, i, lane));
    const uint32_t bytes = w.lanes<uint32_t>(i.b)[lane];
    if (bytes > kMostArrivals) w.fault(lane, error_text("an mbarrier that expects ", bytes, " bytes"));
    m.bytes += bytes;
    arrive(w, lane, m);
  });
}
void want_sink(Decoder& d) {
  if (d.operand(0).kind != Operand::Kind::kSink) d.refuse("the state of an arrival is not modelled");
}
void build_arrive(Decoder& d, Instruction& i) {
  d.operands(2);
  want_sink(d);
  build_mbarrier_address(d, i, 1);
  i.run = run_arrive;
}
void build_arrive_expect(Decoder& d, Instruction& i) {
  d.operands(3);
  want_sink(d);
  build_mbarrier_address(d, i, 1);
  i.b = d.source(2, kU32);
  i.run = run_arrive_expect;
}

// The hardware waits for a while before it says no; here others get their turn.
void run_try_wait(Warp& w, const Instruction& i) {
  uint32_t over = 0;
  for_each_lane(w.mask, [&](int lane) {
    const Mbarrier& m = mbarrier_at(w, lane, address_of(w, i, lane));
    const uint32_t parity = w.lanes<uint32_t>(i.b)[lane];
    if (parity > 1) w.fault(lane, error_text("a parity of ", parity));
    const bool is_over = (m.phase & 1u) != parity;
    over |= uint32_t(is_over) << lane;
    if (is_over && w.block->order) w.block->order->acquire(w, 1u << lane, m.known);
  });
  uint32_t& d = w.predicate(i.d);
  d = (d & ~w.mask) | over;
  w.yields = over != w.mask;
}
void build_try_wait(Decoder& d, Instruction& i) {
  d.operands(3);
  build_mbarrier_address(d, i, 1);
  i.b = d.source(2, kU32);
  i.d = d.destination(0, kPredicate);
  i.run = run_try_wait;
}

void run_fence(Warp& w, const Instruction&) {
  for (auto& [address, m] : w.block->mbarriers) {
    const int lane = m.initialiser - w.index * kLanes;
    if (lane >= 0 && lane < kLanes && (w.mask >> lane & 1u) != 0) m.fenced = true;
  }
}
void build_fence(Decoder& d, Instruction& i) {
  d.operands(0);
  i.run = run_fence;
}

}  // namespace

void build_mbarrier_address(Decoder& d, Instruction& i, size_t k) { i.a = d.shared_address(k, i.imm); }

Mbarrier& mbarrier_at(Warp& w, int lane, uint32_t address) {
  const auto it = w.block->mbarriers.find(address);
  if (it == w.block->mbarriers.end()) w.fault(lane, error_text("no mbarrier was initialised at ", address));
  return it->second;
}

void complete_bytes(Block& b, uint32_t address, int64_t bytes, const Issue& issue) {
  Mbarrier& m = b.mbarriers.at(address);
  if (b.order) b.order->copy_known_to(m.arriving, issue.thread, issue.count);
  m.bytes -= bytes;
  settle(b, m);
}

void add_mbarrier_forms(Forms& f) {
  f.add("mbarrier.init.shared::cta.b64", build_init);
  f.add("mbarrier.arrive.shared::cta.b64", build_arrive);
  f.add("mbarrier.arrive.expect_tx.shared::cta.b64", build_arrive_expect);
  f.add("mbarrier.try_wait.parity.shared::cta.b64", build_try_wait);
  f.add("fence.mbarrier_init.release.cluster", build_fence);
}

}  // namespace llama4rt::ptx_executor
