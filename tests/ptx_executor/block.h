// A block that is resident: its warps, shared memory, barriers, and asynchronous work in flight.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "ptx_executor/global_space.h"
#include "ptx_executor/order.h"
#include "ptx_executor/shared_space.h"
#include "ptx_executor/warp.h"
#include "simt_emulator/executor.h"

namespace llama4rt::ptx_executor {

struct Grid;

constexpr int kNumBarriers = 16;

// bar.sync and bar.arrive count threads, a warp at a time.
struct Barrier {
  int expected = 0;  // of the phase under way; 0: none is
  int arrived = 0;
  uint64_t generation = 0;        // phases completed
  ViewPtr view;                   // of those that have arrived
  std::vector<int> waiting = {};  // warps
};

struct Mbarrier {
  uint32_t count = 0;    // arrivals of a phase
  uint32_t pending = 0;  // that have not come
  int64_t bytes = 0;     // expected and not yet copied
  uint64_t phase = 0;
  int initialiser = 0;      // the thread
  bool fenced = false;      // by fence.mbarrier_init, so copies may signal it
  ViewPtr arriving, known;  // of those that have arrived in this phase; of the phases before
};

// A copy that the block started and that lands by itself.
struct BlockCopy {
  std::function<void()> land;
  std::string what;
};

// One cp.async of one lane.
struct LaneCopy {
  uint32_t to = 0;
  GlobalSpace::Place from = {};
  int read = 0;  // bytes; the rest becomes zero
  bool landed = false;
};
// Of one lane: groups of copies, oldest first.
struct LaneCopies {
  std::vector<LaneCopy> open;
  std::deque<std::vector<LaneCopy>> groups;
  std::vector<std::function<void()>> open_stores;  // bulk stores
  std::deque<std::vector<std::function<void()>>> store_groups;
};

struct WgmmaState;  // wgmma.cpp

struct Block {
  Grid* grid = nullptr;
  simt::Dim3 index;
  SharedSpace shared;
  std::unique_ptr<Order> order;  // null: not checked
  std::vector<Warp> warps;
  Barrier barriers[kNumBarriers];
  std::vector<uint64_t> waits_at;  // of each warp: the generation of the barrier it waits for plus 1, 0: none
  std::map<uint32_t, Mbarrier> mbarriers;  // by address
  std::vector<LaneCopies> lane_copies;     // of each thread, made when first used
  std::deque<BlockCopy> copies;
  std::vector<std::shared_ptr<WgmmaState>> wgmma;  // of each warp, made when first used
  std::vector<int> registers_of_warp;              // setmaxnreg; empty: as launched
  int free_registers = 0;
  uint64_t events = 0;           // things that may let a waiting warp go on
  bool has_triggered = false;    // griddepcontrol.launch_dependents
  bool counted_trigger = false;  // in Grid::triggered
  int threads = 0;

  Block(Grid& g, simt::Dim3 at);
  bool ended() const;
  LaneCopies& copies_of(const Warp& w, int lane);

 private:
  std::vector<unsigned char> files_;  // of all warps
};

std::string describe(const Block& b);  // "rmsnorm, block (0,1,0)"

// --- what kinds of instructions have to say when something else happens

void lanes_exited(Warp& w, uint32_t lanes);  // block.cpp; a barrier may complete
void lanes_left_barriers(Warp& w);           // barriers.cpp: a warp has ended
void check_nothing_in_flight(Block& b);      // block.cpp, at the end of a block
bool is_in_flight(const Warp& w, Unit u);    // wgmma.cpp: an unfinished wgmma writes it
void check_wgmma_done(const Warp& w);        // wgmma.cpp, at the end of a warp
void check_wgmma_write(Warp& w, Unit u);     // wgmma.cpp: another instruction writes it
void check_warp_groups(const Block& b);      // wgmma.cpp, at the end of a block

}  // namespace llama4rt::ptx_executor
