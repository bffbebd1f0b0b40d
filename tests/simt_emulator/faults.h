// Faults: the emulator can break a kernel on purpose, at any place where the kernel synchronises.
//
// A run records every such place. The tests then run the kernel once per place with that one barrier, wait or
// fence removed, or that shuffle reading a wrong lane, and demand that a report or a wrong result shows it.
// So teeth need no second copy of a kernel, and a synchronisation that nobody would miss is found too.
#pragma once

#include <compare>
#include <string>
#include <vector>

#include "simt_emulator/site.h"

namespace llama4rt::simt {

enum class FaultKind : uint8_t {
  kBarrier,         // CTA barrier: does nothing
  kSyncWarp,        // __syncwarp: does nothing
  kShuffle,         // reads a wrong lane
  kCopyWait,        // cp.async.wait_group: allows one group more in flight
  kMbarrierWait,    // mbarrier wait: returns at once
  kMbarrierArrive,  // mbarrier arrive: does nothing
  kWgmmaWait,       // wgmma.wait_group: allows one group more in flight
  kFence,           // __threadfence and proxy fences: do nothing
  kGridWait,        // griddepcontrol.wait: does nothing
};

struct Fault {
  FaultKind kind;
  std::string file;
  int line = 0;
  int argument = 0;          // of a butterfly: the lane mask
  std::string text() const;  // "barrier at rmsnorm.cuh:36"
  auto operator<=>(const Fault&) const = default;
};

// Called at each place: records it, and says whether it is the broken one.
bool fault_at(FaultKind kind, Site site, int argument = 0);

// Breaks one place for as long as it lives.
class BrokenPlace {
 public:
  explicit BrokenPlace(Fault fault);
  ~BrokenPlace();
  BrokenPlace(const BrokenPlace&) = delete;
  BrokenPlace& operator=(const BrokenPlace&) = delete;
  int64_t times_met() const;
};

// The places met since the last call, sorted.
std::vector<Fault> take_recorded_places();

}  // namespace llama4rt::simt
