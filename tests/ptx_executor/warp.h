// A warp: 32 lanes that execute one instruction together as long as they stand at the same one.
//
// Lanes that branch apart become splits, each with its own place. Which of them goes first is up to the schedule; they
// merge where they meet. A collective waits until all lanes that it names have come; lanes that never come, because they
// wait elsewhere or have exited, are reported.
#pragma once

#include <bit>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "ptx_executor/program.h"

namespace llama4rt::ptx_executor {

struct Block;

struct Split {
  uint32_t pc = 0;
  uint32_t lanes = 0;
  bool parked = false;  // at a collective, for lanes that have not come
  bool stalled =
      false;  // waits for others (a barrier, copies, the kernel before); tried again at the next turn
};

struct Warp {
  Block* block = nullptr;
  const Program* program = nullptr;
  int index = 0;
  unsigned char* file = nullptr;    // program->place_units places
  const uint32_t* place = nullptr;  // of each unit
  std::vector<uint32_t> defined;    // of each unit: the lanes that hold a value
  std::vector<Split> splits;        // of lanes that have not exited
  size_t current = 0;               // the split at its turn
  uint32_t waited = 0;              // lanes that have waited for the kernels before
  uint64_t executed = 0;            // instructions
  int in_flight = 0;                // registers that unfinished wgmmas use, each as often as it is used

  // While an instruction runs:
  uint32_t mask = 0;    // the lanes that execute it
  bool retry = false;   // it could not complete: try again at the next turn
  bool yields = false;  // it completed, and others should have their turn

  template <class T>
  T* lanes(Unit u) {
    return reinterpret_cast<T*>(file + place[u] * kPlaceBytes);
  }
  uint32_t& predicate(Unit u) { return *lanes<uint32_t>(u); }
  uint32_t live() const;  // lanes that have not exited

  // Ends the launch with a report that names kernel, block, lanes and statement.
  [[noreturn]] void fault(const std::string& what) const;
  [[noreturn]] void fault(int lane, const std::string& what) const;
  std::string where() const;  // "rmsnorm, block (0,1,0), warp 2"
};

// How a turn ended.
enum class Turn { kExited, kStalled, kOutOfBudget };
// Lets the warp execute until it waits, ends, or has used up so many instructions.
Turn run_turn(Warp& w, int64_t budget);

// Calls f(lane) for each lane that executes.
template <class F>
void for_each_lane(uint32_t mask, F f) {
  for (; mask != 0; mask &= mask - 1) f(std::countr_zero(mask));
}

// d[lane] = f(a[lane], ...) for each lane that executes. Sources and destination may be the same register.
template <class D, class... S, class F>
void map_lanes(Warp& w, const Instruction& i, F f) {
  const auto apply = [&](D* d, const S*... s) {
    if (w.mask == kAllLanes) {
#pragma GCC ivdep
      for (int lane = 0; lane < kLanes; ++lane) d[lane] = f(s[lane]...);
    } else {
      for_each_lane(w.mask, [&](int lane) { d[lane] = f(s[lane]...); });
    }
  };
  const Unit units[] = {i.a, i.b, i.c};
  [&]<size_t... k>(std::index_sequence<k...>) {
    apply(w.lanes<D>(i.d), w.lanes<S>(units[k])...);
  }(std::index_sequence_for<S...>());
}

}  // namespace llama4rt::ptx_executor
