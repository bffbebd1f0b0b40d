#include "ptx_executor/grid.h"

#include <algorithm>
#include <deque>

#include "base/error.h"
#include "ptx_executor/global_space.h"
#include "ptx_executor/schedule.h"

namespace llama4rt::ptx_executor {
namespace {

// Rounds without any event before it counts as a deadlock: a retry loop goes round a few times by itself.
constexpr int kPatience = 64;

Executed totals;

simt::Dim3 block_at(const simt::Dim3& grid, int number) {
  return {number % grid.x, number / grid.x % grid.y, number / (grid.x * grid.y)};
}

void check_request(const Request& r) {
  const Program& p = *r.program;
  LLAMA4RT_CHECK(kInternal, r.grid.count() > 0 && r.threads > 0, r.name, ": an empty launch");
  LLAMA4RT_CHECK(kInternal, p.max_threads == 0 || r.threads <= p.max_threads, r.name, ": ", r.threads,
                 " threads, compiled for at most ", p.max_threads);
  LLAMA4RT_CHECK(kInternal, int64_t(r.parameters.size()) == p.parameter_bytes, r.name, ": ",
                 r.parameters.size(), " bytes of parameters, compiled for ", p.parameter_bytes);
  LLAMA4RT_CHECK(kInternal, p.declared_shared + int64_t(r.dynamic_shared) <= kMostSharedBytes, r.name, ": ",
                 p.declared_shared, " + ", r.dynamic_shared, " bytes of shared memory; a block has ",
                 kMostSharedBytes);
}

class Stream {
 public:
  Stream(std::vector<Request>& requests, GlobalSpace& global) : global_(global) {
    for (Request& r : requests) {
      check_request(r);
      waiting_.push_back(&r);
    }
  }

  void run() {
    int quiet = 0;  // rounds without an event
    while (true) {
      start_grids();
      start_blocks();
      if (running_.empty()) return;
      if (round() || land_copy())
        quiet = 0;
      else if (++quiet > kPatience)
        deadlock();
    }
  }

 private:
  // Starts launches until one has to wait for the one before.
  void start_grids() {
    while (!running_.empty() && running_.front()->done()) {
      if (running_.size() > 1) running_[1]->before = nullptr;
      running_.pop_front();
    }
    while (!waiting_.empty()) {
      const Request& r = *waiting_.front();
      Grid* before = running_.empty() ? nullptr : running_.back().get();
      const bool early = r.overlaps && simt::options().order != simt::Order::kAscending;
      if (before && !(early && before->lets_next_start())) return;
      auto g = std::make_unique<Grid>();
      g->request = &r;
      g->global = &global_;
      g->number = global_.next_launch();
      g->is_last = waiting_.size() == 1;
      g->before = before;
      g->blocks = r.grid.count();
      for (int i = g->blocks - 1; i >= 0; --i) g->not_started.push_back(block_at(r.grid, i));
      if (simt::options().order == simt::Order::kDescending)
        std::reverse(g->not_started.begin(), g->not_started.end());
      if (simt::options().order == simt::Order::kRandom)
        for (size_t i = g->not_started.size(); i > 1; --i)
          std::swap(g->not_started[i - 1], g->not_started[random_below(i)]);
      running_.push_back(std::move(g));
      waiting_.pop_front();
    }
  }

  // Blocks of a later launch take their places only when the earlier ones have theirs.
  void start_blocks() {
    int resident = 0;
    for (const auto& g : running_) resident += int(g->resident.size());
    for (const auto& g : running_)
      while (!g->not_started.empty()) {
        // A launch always has room for one, or nothing would overlap in a small grid.
        if (resident >= resident_blocks() && !(g->resident.empty() && g != running_.front())) break;
        g->resident.push_back(std::make_unique<Block>(*g, g->not_started.back()));
        g->not_started.pop_back();
        ++resident;
      }
  }

  // Every resident warp gets a turn. Whether anything happened that others may wait for.
  bool round() {
    struct Place {
      Block* block;
      Warp* warp;
    };
    std::vector<Place> turns;
    for (const auto& g : running_)
      for (const auto& b : g->resident)
        for (Warp& w : b->warps)
          if (!w.splits.empty()) turns.push_back({b.get(), &w});
    if (simt::options().order == simt::Order::kDescending) std::reverse(turns.begin(), turns.end());
    if (simt::options().order == simt::Order::kRandom)
      for (size_t i = turns.size(); i > 1; --i) std::swap(turns[i - 1], turns[random_below(i)]);
    bool progress = false;
    for (const auto& [block, warp] : turns) {
      const uint64_t events = block->events, executed = warp->executed;
      const Turn turn = run_turn(*warp, turn_budget());
      totals.warp_instructions += warp->executed - executed;
      progress = progress || turn != Turn::kStalled || block->events != events;
      if (block->has_triggered && !block->counted_trigger) {
        block->counted_trigger = true;
        ++block->grid->triggered;
      }
      if (turn == Turn::kExited && block->ended()) end_block(*block);
      if (simt::options().order == simt::Order::kRandom && random_below(8) == 0) land_copy();
    }
    return progress;
  }

  void end_block(Block& b) {
    check_nothing_in_flight(b);
    Grid& g = *b.grid;
    ++g.ended;
    if (!b.counted_trigger) ++g.triggered;
    std::erase_if(g.resident, [&](const auto& each) { return each.get() == &b; });
  }

  // The oldest copy of some block lands.
  bool land_copy() {
    for (const auto& g : running_)
      for (const auto& b : g->resident)
        if (!b->copies.empty()) {
          const BlockCopy copy = std::move(b->copies.front());
          b->copies.pop_front();
          copy.land();
          ++b->events;
          return true;
        }
    return false;
  }

  [[noreturn]] void deadlock() {
    std::string text = "deadlock: nobody can go on";
    int lines = 0;
    for (const auto& g : running_)
      for (const auto& b : g->resident)
        for (const Warp& w : b->warps)
          for (const Split& s : w.splits)
            if (++lines <= 16) {
              std::ostringstream lanes;
              lanes << std::hex << s.lanes;
              text += error_text("\n  ", w.where(), ", lanes ", lanes.str(), " at ", w.program->where(s.pc));
            }
    throw Error(ErrorKind::kInternal, text);
  }

  GlobalSpace& global_;
  std::deque<const Request*> waiting_;
  std::deque<std::unique_ptr<Grid>> running_;
};

}  // namespace

void run_stream(std::vector<Request> requests, GlobalSpace& global) {
  begin_schedule();
  Stream(requests, global).run();
}

Executed executed() { return totals; }

}  // namespace llama4rt::ptx_executor
