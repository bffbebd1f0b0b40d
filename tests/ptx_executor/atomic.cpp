// Atomics on global memory. PTX ISA, "atom": the old value comes back. A relaxed one orders nothing by itself, one with
// .acq_rel is a release of what came before and an acquire of what was released at its address.
#include <cstring>

#include "ptx_executor/forms.h"
#include "ptx_executor/global_space.h"
#include "ptx_executor/grid.h"
#include "ptx_executor/warp.h"

namespace llama4rt::ptx_executor {
namespace {

// One lane after the other: the order between them is open, so the schedule draws it.
// kOrdered: as a relaxed one between two fences, which is the same for kernels that do not use the two side by side.
template <bool kOrdered>
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
    if (Order* const order = w.block->order.get()) {
      if constexpr (kOrdered) order->fence(w, 1u << lane);
      order->atomic(w, lane, address, w.block->grid->atomics);
      if constexpr (kOrdered) order->fence(w, 1u << lane);
    }
    w.lanes<uint32_t>(i.d)[lane] = value;
  });
}
template <bool kOrdered>
void build_add(Decoder& d, Instruction& i) {
  d.operands(3);
  const Decoder::Address address = d.address(1, Space::kGlobal);
  i.a = address.base;
  i.imm = address.offset;
  i.b = d.source(2, kU32);
  i.d = d.destination(0, kU32);
  i.run = run_add<kOrdered>;
}

}  // namespace

void add_atomic_forms(Forms& f) {
  f.add("atom.relaxed.gpu.global.add.u32", build_add<false>);
  f.add("atom.acq_rel.gpu.global.add.u32", build_add<true>);
}

}  // namespace llama4rt::ptx_executor
