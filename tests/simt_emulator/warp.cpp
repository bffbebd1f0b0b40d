#include "simt_emulator/warp.h"

#include "base/error.h"
#include "simt_emulator/checker.h"
#include "simt_emulator/faults.h"

namespace llama4rt::simt {
namespace {

struct Posted {
  void (*combine)(Lanes&);
  void* payload;
};

// Lanes of `mask` that a collective still needs.
uint32_t needed(const Warp& w, uint32_t mask) { return mask & w.existing & ~w.exited; }

// True when every needed lane has posted the same operation with the same mask.
bool complete(Block& b, int warp, const Thread& first) {
  const Warp& w = b.warps[size_t(warp)];
  const uint32_t need = needed(w, first.mask);
  if ((w.posted & need) != need) return false;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (!(need >> lane & 1u)) continue;
    const Thread& t = *b.threads[size_t(warp * kWarpSize + lane)];
    if (t.what != first.what && std::string_view(t.what) != first.what) return false;
    if (t.mask != first.mask) return false;
  }
  return true;
}

// Runs the collective and makes its lanes ready.
void finish(Block& b, int warp, Thread& first) {
  Warp& w = b.warps[size_t(warp)];
  Lanes lanes;
  lanes.members = needed(w, first.mask);
  lanes.block = &b;
  lanes.warp = warp;
  lanes.site = first.site;
  void (*combine)(Lanes&) = nullptr;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (!lanes.has(lane)) continue;
    Thread& t = *b.threads[size_t(warp * kWarpSize + lane)];
    auto* posted = static_cast<Posted*>(t.payload);
    combine = posted->combine;
    lanes.payload[lane] = posted->payload;
    if (!(t.site == first.site))
      fail(error_text("divergent code: ", first.what, " reached at ", first.site.text(), " by lane ",
                      first.lane, " and at ", t.site.text(), " by lane ", lane));
  }
  combine(lanes);
  w.posted &= ~lanes.members;
  for (int lane = 0; lane < kWarpSize; ++lane)
    if (lanes.has(lane)) b.threads[size_t(warp * kWarpSize + lane)]->state = State::kReady;
}

struct Exchange {
  uint32_t in = 0, out = 0;
  int source = 0;
};

void combine_exchange(Lanes& lanes) {
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (!lanes.has(lane)) continue;
    Exchange& e = lanes.at<Exchange>(lane);
    if (!lanes.has(e.source))
      fail_at(lanes.site, error_text("lane ", lane, " shuffles from lane ", e.source,
                                     ", which has exited or is not in the mask"));
    e.out = lanes.at<Exchange>(e.source).in;
  }
}

uint32_t exchange(const char* what, uint32_t value, int source, Site site) {
  Exchange e{value, 0, source};
  warp_collective(what, kAllLanes, site, &e, combine_exchange);
  return e.out;
}

}  // namespace

void warp_collective(const char* what, uint32_t mask, Site site, void* payload, void (*combine)(Lanes&)) {
  Thread& t = self();
  Block& b = *t.block;
  Warp& w = b.warps[size_t(t.warp)];
  if (!(mask >> t.lane & 1u))
    fail_at(site, error_text(what, ": lane ", t.lane, " is not in its own mask ", std::hex, mask));
  if (mask != kAllLanes && (mask & ~w.existing) != 0)
    fail_at(site, error_text(what, ": mask ", std::hex, mask, " names lanes the block does not have"));
  Posted posted{combine, payload};
  t.what = what;
  t.site = site;
  t.mask = mask;
  t.payload = &posted;
  w.posted |= 1u << t.lane;
  if (complete(b, t.warp, t)) return finish(b, t.warp, t);
  park(State::kInWarp);
}

void retest_warp(Block& b, int warp) {
  const Warp& w = b.warps[size_t(warp)];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (!(w.posted >> lane & 1u)) continue;
    Thread& t = *b.threads[size_t(warp * kWarpSize + lane)];
    if (complete(b, warp, t)) finish(b, warp, t);
  }
}

void sync_warp(uint32_t mask, Site site) {
  InRuntime guard;
  if (fault_at(FaultKind::kSyncWarp, site)) return;
  warp_collective("__syncwarp", mask, site, nullptr,
                  [](Lanes& lanes) { checker::warp_barrier(*lanes.block, lanes.warp, lanes.members); });
}

uint32_t shuffle(uint32_t value, int source_lane, int width, Site site) {
  InRuntime guard;
  const int lane = self().lane;
  const int source = (lane & ~(width - 1)) | (source_lane & (width - 1));
  return exchange("__shfl_sync", value, fault_at(FaultKind::kShuffle, site) ? source ^ 1 : source, site);
}

uint32_t shuffle_xor(uint32_t value, int lane_mask, int width, Site site) {
  InRuntime guard;
  const int lane = self().lane;
  // The planted bug of a butterfly: one step is taken twice and another not at all.
  if (fault_at(FaultKind::kShuffle, site, lane_mask)) lane_mask = lane_mask == 1 ? 2 : lane_mask / 2;
  const int source = lane ^ lane_mask;
  return exchange("__shfl_xor_sync", value, source > (lane | (width - 1)) ? lane : source, site);
}

uint32_t shuffle_up(uint32_t value, int delta, int width, Site site) {
  InRuntime guard;
  const int lane = self().lane;
  if (fault_at(FaultKind::kShuffle, site)) delta += 1;
  const int source = lane - delta;
  return exchange("__shfl_up_sync", value, source < (lane & ~(width - 1)) ? lane : source, site);
}

uint32_t shuffle_down(uint32_t value, int delta, int width, Site site) {
  InRuntime guard;
  const int lane = self().lane;
  if (fault_at(FaultKind::kShuffle, site)) delta += 1;
  const int source = lane + delta;
  return exchange("__shfl_down_sync", value, source > (lane | (width - 1)) ? lane : source, site);
}

uint32_t ballot(uint32_t mask, bool predicate, Site site) {
  InRuntime guard;
  Exchange e{predicate, 0, 0};
  warp_collective("__ballot_sync", mask, site, &e, [](Lanes& lanes) {
    uint32_t bits = 0;
    for (int i = 0; i < kWarpSize; ++i)
      if (lanes.has(i)) bits |= lanes.at<Exchange>(i).in << i;
    for (int i = 0; i < kWarpSize; ++i)
      if (lanes.has(i)) lanes.at<Exchange>(i).out = bits;
  });
  return e.out;
}

uint32_t match_any(uint32_t mask, uint32_t value, Site site) {
  InRuntime guard;
  Exchange e{value, 0, 0};
  warp_collective("__match_any_sync", mask, site, &e, [](Lanes& lanes) {
    for (int i = 0; i < kWarpSize; ++i)
      for (int j = 0; lanes.has(i) && j < kWarpSize; ++j)
        if (lanes.has(j) && lanes.at<Exchange>(i).in == lanes.at<Exchange>(j).in)
          lanes.at<Exchange>(i).out |= 1u << j;
  });
  return e.out;
}

uint32_t active_lanes() {
  const Thread& t = self();
  const Warp& w = t.block->warps[size_t(t.warp)];
  return w.existing & ~w.exited;
}

}  // namespace llama4rt::simt
