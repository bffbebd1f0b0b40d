#include "ptx_executor/block.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "ptx_executor/grid.h"

namespace llama4rt::ptx_executor {
namespace {

// Special registers of a warp, and all constants.
void fill_file(Warp& w, const Program& p, const Grid& g, simt::Dim3 at, int threads) {
  if (!p.constants.empty()) std::memcpy(w.file, p.constants.data(), p.constants.size());
  const auto set = [&](const char* name, auto value_of) {
    uint32_t* lanes = w.lanes<uint32_t>(p.specials.at(name));
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = uint32_t(value_of(lane));
  };
  const simt::Dim3 grid = g.request->grid;
  set("%tid.x", [&](int lane) { return w.index * kLanes + lane; });
  set("%ntid.x", [&](int) { return threads; });
  set("%ctaid.x", [&](int) { return at.x; });
  set("%ctaid.y", [&](int) { return at.y; });
  set("%ctaid.z", [&](int) { return at.z; });
  set("%nctaid.x", [&](int) { return grid.x; });
  set("%nctaid.y", [&](int) { return grid.y; });
  set("%nctaid.z", [&](int) { return grid.z; });
}

// What a launch asks for and the kernel has no array for is not there.
uint32_t shared_end(const Request& r) {
  const Program& p = *r.program;
  return p.dynamic_begin + (p.dynamic_shared.empty() ? 0 : uint32_t(r.dynamic_shared));
}
SharedSpace make_shared(const Request& r) {
  const Program& p = *r.program;
  return {p.shared_begin, p.shared_end, p.dynamic_begin, shared_end(r)};
}

}  // namespace

Block::Block(Grid& g, simt::Dim3 at)
    : grid(&g), index(at), shared(make_shared(*g.request)), threads(g.request->threads) {
  const Program& p = *g.request->program;
  const int num_warps = (threads + kLanes - 1) / kLanes;
  static uint32_t blocks_ever = 0;
  if (simt::options().check)
    order = std::make_unique<Order>(++blocks_ever, num_warps, p.shared_begin,
                                    shared_end(*g.request) - p.shared_begin);
  const size_t file_bytes = p.place_units * kPlaceBytes;
  files_.resize(size_t(num_warps) * file_bytes + kPlaceBytes);
  unsigned char* first =
      files_.data() + (kPlaceBytes - reinterpret_cast<uintptr_t>(files_.data()) % kPlaceBytes);
  warps.resize(size_t(num_warps));
  waits_at.assign(size_t(num_warps), 0);
  for (int i = 0; i < num_warps; ++i) {
    Warp& w = warps[size_t(i)];
    w.block = this;
    w.program = &p;
    w.index = i;
    w.file = first + size_t(i) * file_bytes;
    w.place = p.place.data();
    w.defined.assign(p.num_units(), 0);
    for (Unit u = p.first_special; u < p.num_units(); ++u) w.defined[u] = kAllLanes;
    const int lanes = std::min(kLanes, threads - i * kLanes);
    w.splits.push_back({.pc = 0, .lanes = lanes == kLanes ? kAllLanes : (1u << lanes) - 1});
    w.waited = g.request->overlaps ? 0 : kAllLanes;
    fill_file(w, p, g, at, threads);
  }
}

bool Block::ended() const {
  for (const Warp& w : warps)
    if (!w.splits.empty()) return false;
  return true;
}

LaneCopies& Block::copies_of(const Warp& w, int lane) {
  if (lane_copies.empty()) lane_copies.resize(warps.size() * kLanes);
  return lane_copies[size_t(w.index * kLanes + lane)];
}

std::string describe(const Block& b) {
  return error_text(b.grid->request->name, ", block (", b.index.x, ",", b.index.y, ",", b.index.z, ")");
}

void lanes_exited(Warp& w, uint32_t lanes) {
  Block& b = *w.block;
  ++b.events;
  if ((lanes & ~w.waited) != 0)
    w.fault(std::countr_zero(lanes & ~w.waited), "ends without having waited for the kernel before");
  if (w.splits.empty()) {
    check_wgmma_done(w);
    lanes_left_barriers(w);
  }
}

void check_nothing_in_flight(Block& b) {
  const auto report = [&](const std::string& what) {
    throw Error(ErrorKind::kInternal, error_text(describe(b), ": ended with ", what, " in flight"));
  };
  for (const LaneCopies& lane : b.lane_copies) {
    // Groups that nobody waited for are fine while they are empty.
    const auto all_empty = [](const auto& groups) {
      return std::all_of(groups.begin(), groups.end(), [](const auto& group) { return group.empty(); });
    };
    if (!lane.open.empty() || !all_empty(lane.groups)) report("cp.async");
    if (!lane.open_stores.empty() || !all_empty(lane.store_groups)) report("bulk stores");
  }
  if (!b.copies.empty()) report(b.copies.front().what);
  for (const auto& [address, m] : b.mbarriers)
    if (m.bytes != 0) report(error_text(m.bytes, " bytes expected by the mbarrier at ", address));
  check_warp_groups(b);
  if (b.grid->request->overlaps && !b.has_triggered)
    throw Error(ErrorKind::kInternal, error_text(describe(b), ": never lets the next kernel start"));
}

}  // namespace llama4rt::ptx_executor
