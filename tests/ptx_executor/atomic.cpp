// Atomics on global memory. PTX ISA, "atom": the old value comes back; relaxed, so it orders nothing by itself.
#include <cstring>

#include "ptx_executor/forms.h"
#include "ptx_executor/global_space.h"
#include "ptx_executor/grid.h"
#include "ptx_executor/warp.h"

namespace llama4rt::ptx_executor {
namespace {

// One lane after the other: the order between them is open, so the schedule draws it.
void run_add(Warp& w, const Instruction& i) {
  ++w.block->events;
  GlobalSpace& g = *w.block->grid->global;
  for_each_lane(w.mask, [&](int lane) {
    const uint64_t address = w.lanes<uint64_t>(i.a)[lane] + uint64_t(i.imm);
    const GlobalSpace::Place place = g.at(w, lane, address, 4, 4);
    if (!g.read(w, lane, place, 4)) w.fault(lane, "an atomic on bytes that nobody has written");
    uint32_t value;
    std::memcpy(&value, place.p, 4);
    const uint32_t sum = value + w.lanes<uint32_t>(i.b)[lane];
    std::memcpy(place.p, &sum, 4);
    g.write(w, lane, place, 4, GlobalSpace::How::kAtomic);
    if (w.block->order) w.block->order->atomic(w, lane, address, w.block->grid->atomics);
    w.lanes<uint32_t>(i.d)[lane] = value;
  });
}
void build_add(Decoder& d, Instruction& i) {
  d.operands(3);
  const Decoder::Address address = d.address(1, Space::kGlobal);
  i.a = address.base;
  i.imm = address.offset;
  i.b = d.source(2, kU32);
  i.d = d.destination(0, kU32);
  i.run = run_add;
}

}  // namespace

void add_atomic_forms(Forms& f) { f.add("atom.relaxed.gpu.global.add.u32", build_add); }

}  // namespace llama4rt::ptx_executor
