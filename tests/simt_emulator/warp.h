// Warp collectives: a rendezvous of the lanes named by a mask. Each lane posts a payload; the last to arrive
// computes for all of them and lets them go on.
#pragma once

#include <cstdint>

#include "simt_emulator/executor.h"

namespace llama4rt::simt {

constexpr uint32_t kAllLanes = 0xffffffffu;

// Payloads of the lanes that take part, by lane; the others are null.
struct Lanes {
  void* payload[kWarpSize] = {};
  uint32_t members = 0;
  Block* block = nullptr;
  int warp = 0;
  Site site;

  template <class T>
  T& at(int lane) const {
    return *static_cast<T*>(payload[lane]);
  }
  bool has(int lane) const { return (members >> lane & 1u) != 0; }
};

// `combine` runs once, in the last lane. Lanes must come from one source line: PTX allows more, our kernels
// never want it.
void warp_collective(const char* what, uint32_t mask, Site site, void* payload, void (*combine)(Lanes&));

// After an exit: lanes that have left are not waited for.
void retest_warp(Block& b, int warp);

// The collectives of CUDA that exchange registers. They order no memory; only syncwarp does.
void sync_warp(uint32_t mask, Site site);
uint32_t shuffle(uint32_t value, int source_lane, int width, Site site);    // __shfl_sync
uint32_t shuffle_xor(uint32_t value, int lane_mask, int width, Site site);  // __shfl_xor_sync
uint32_t shuffle_up(uint32_t value, int delta, int width, Site site);       // __shfl_up_sync
uint32_t shuffle_down(uint32_t value, int delta, int width, Site site);     // __shfl_down_sync
uint32_t ballot(uint32_t mask, bool predicate, Site site);                  // __ballot_sync
uint32_t match_any(uint32_t mask, uint32_t value, Site site);               // __match_any_sync
uint32_t active_lanes();  // lanes of this warp that have not exited

// For the executor's parts: switches away in this state until somebody sets kReady.
void park(State state);

}  // namespace llama4rt::simt
