// Copies of boxes of a tensor. PTX ISA, "cp.async.bulk.tensor": the map in parameter space says where the tensor lies and
// how large a box is; coordinates name its first element, the contiguous dimension first. Elements outside of the tensor
// become zero, and count; of a store they are left out.
#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "ptx_executor/bulk.h"
#include "ptx_executor/forms.h"
#include "ptx_executor/global_space.h"
#include "ptx_executor/grid.h"
#include "ptx_executor/schedule.h"
#include "ptx_executor/swizzle.h"
#include "ptx_executor/warp.h"
#include "simt_emulator/async.h"

namespace llama4rt::ptx_executor {
namespace {

// What the host put into the map; on a GPU only the driver knows how.
using Map = simt::TensorMapContents;

Map map_at(Warp& w, int lane, uint64_t address) {
  const std::vector<unsigned char>& all = w.block->grid->request->parameters;
  constexpr uint64_t kBytes = 128;
  if (address < kParameterWindow || address - kParameterWindow + kBytes > all.size())
    w.fault(lane, "the address is not that of a tensor map in parameter space");
  const uint64_t at = address - kParameterWindow;
  if (at % 64 != 0) w.fault(lane, "a tensor map lies on a multiple of 64 bytes");
  Map map;
  std::memcpy(static_cast<void*>(&map), &all[at], sizeof map);
  if (map.rank != 2 || map.element_bytes != 2)
    w.fault(lane, "not a map of two dimensions of 16-bit elements");
  return map;
}

// pool: map's unit, its offset, coordinates' units (column, row), mbarrier's unit, its offset.
struct Box {
  Map map;
  int64_t column = 0, row = 0;
  int64_t row_bytes() const { return int64_t(map.box[0]) * map.element_bytes; }
  int64_t bytes() const { return row_bytes() * map.box[1]; }
  Swizzling swizzling() const { return Swizzling(int(map.swizzle)); }

  // Calls f(offset in the box, address of the element or null, lane-independent) for every element.
  template <class F>
  void each(uint32_t shared, F f) const {
    for (uint32_t r = 0; r < map.box[1]; ++r)
      for (uint32_t c = 0; c < map.box[0]; ++c) {
        const int64_t x = column + c, y = row + r;
        const bool inside = x >= 0 && y >= 0 && x < int64_t(map.size[0]) && y < int64_t(map.size[1]);
        const auto at = uint32_t(r * row_bytes() + int64_t(c) * map.element_bytes);
        const uint64_t element = reinterpret_cast<uint64_t>(map.base) + uint64_t(y) * map.stride[1] +
                                 uint64_t(x * map.element_bytes);
        f(swizzle(shared + at, swizzling()), inside ? element : 0);
      }
  }
};

Box box_of(Warp& w, int lane, const uint32_t* pool, uint32_t shared) {
  Box box;
  box.map = map_at(w, lane, w.lanes<uint64_t>(pool[0])[lane] + uint64_t(int64_t(int32_t(pool[1]))));
  box.column = w.lanes<int32_t>(pool[2])[lane];
  box.row = w.lanes<int32_t>(pool[3])[lane];
  const uint32_t alignment = std::max(128u, swizzle_pattern(box.swizzling()));
  if (shared % alignment != 0)
    w.fault(lane, error_text("a box at shared address ", shared, ", no multiple of ", alignment));
  if (box.swizzling() != Swizzling::kNone && box.row_bytes() > int64_t(swizzle_row(box.swizzling())))
    w.fault(lane, "a row of the box is wider than the swizzle");
  return box;
}

void run_load(Warp& w, const Instruction& i) {
  Block& b = *w.block;
  const uint32_t* pool = w.program->pool.data() + i.d;
  for_each_lane(w.mask, [&](int lane) {
    const uint32_t to = w.lanes<uint32_t>(i.a)[lane] + uint32_t(i.imm);
    const uint32_t barrier = w.lanes<uint32_t>(pool[4])[lane] + pool[5];
    const Box box = box_of(w, lane, pool, to);
    GlobalSpace& g = *b.grid->global;
    box.each(to, [&](uint32_t, uint64_t element) {
      if (element != 0) g.read(w, lane, g.at(w, lane, element, 2, 2), 2);
    });
    const Issue issue = begin_load(w, lane, to, box.bytes(), 16, barrier);
    start(b, "a box of a tensor", [&b, &w, lane, box, to, barrier, issue] {
      box.each(to, [&](uint32_t at, uint64_t element) {
        if (element != 0)
          b.shared.land(at, b.grid->global->at(w, lane, element, 2, 2), 2, 2);
        else
          b.shared.land(at, {}, 0, 2);
      });
      end_load(b, to, box.bytes(), barrier, issue);
    });
  });
}
void put_map(Decoder& d, size_t k, std::vector<Unit>& pool) {
  const Operand& o = d.operand(k);
  if (o.kind != Operand::Kind::kAddress || o.parts.size() != 2) d.refuse("expected [map, {column, row}]");
  const Decoder::Address map = d.address(k, Space::kGlobal);  // a generic address
  pool.push_back(map.base);
  pool.push_back(d.short_offset(map));
  const Operand& coordinates = o.parts[1];
  if (coordinates.kind != Operand::Kind::kVector || coordinates.parts.size() != 2)
    d.refuse("expected two coordinates");
  for (const Operand& c : coordinates.parts) pool.push_back(d.source(c, kS32));
}
void build_load(Decoder& d, Instruction& i) {
  d.operands(3);
  i.a = d.shared_address(0, i.imm);
  Decoder::Address barrier;
  barrier.base = d.shared_address(2, barrier.offset);
  std::vector<Unit> pool;
  put_map(d, 1, pool);
  pool.push_back(barrier.base);
  pool.push_back(d.short_offset(barrier));
  i.d = d.put(pool);
  i.run = run_load;
}

void run_store(Warp& w, const Instruction& i) {
  Block& b = *w.block;
  const uint32_t* pool = w.program->pool.data() + i.d;
  for_each_lane(w.mask, [&](int lane) {
    const uint32_t from = w.lanes<uint32_t>(i.a)[lane] + uint32_t(i.imm);
    const Box box = box_of(w, lane, pool, from);
    b.shared.at(w, lane, from, int(box.bytes()), 16);
    if (b.order) b.order->read_shared_async(w, lane, from, box.bytes());
    const auto land = [&b, &w, lane, box, from] {
      box.each(from, [&](uint32_t at, uint64_t element) {
        if (element == 0) return;
        const GlobalSpace::Place place = b.grid->global->at(w, lane, element, 2, 2);
        if (!b.shared.written(at, 2)) w.fault(lane, "stores bytes of shared memory that nobody has written");
        std::memcpy(place.p, b.shared.bytes(at), 2);
        b.grid->global->write(w, lane, place, 2);
      });
    };
    // Until it is waited for nobody knows when it reads; groups are counted per thread.
    if (lands_at_issue()) {
      land();
      b.copies_of(w, lane).open_stores.emplace_back([] {});
    } else {
      b.copies_of(w, lane).open_stores.emplace_back(land);
    }
  });
}
void build_store(Decoder& d, Instruction& i) {
  d.operands(2);
  i.a = d.shared_address(1, i.imm);
  std::vector<Unit> pool;
  put_map(d, 0, pool);
  i.d = d.put(pool);
  i.run = run_store;
}

}  // namespace

void add_tensor_forms(Forms& f) {
  f.add("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes", build_load);
  f.add("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group", build_store);
}

}  // namespace llama4rt::ptx_executor
