#include "ptx_executor/warp.h"

#include <algorithm>

#include "base/error.h"
#include "ptx_executor/block.h"
#include "ptx_executor/schedule.h"

namespace llama4rt::ptx_executor {
namespace {

std::string lanes_text(uint32_t lanes) {
  std::ostringstream out;
  out << std::hex << lanes;
  return out.str();
}

// Which of two places goes first.
bool goes_before(uint32_t pc, uint32_t other) {
  switch (simt::options().order) {
    case simt::Order::kAscending:
      return pc < other;
    case simt::Order::kDescending:
      return pc > other;
    case simt::Order::kRandom:
      return false;  // it was drawn, and keeps its turn
  }
  return false;
}

// Makes a split current that can run; false when there is none.
bool pick(Warp& w) {
  const auto can_run = [](const Split& s) { return !s.parked && !s.stalled; };
  std::vector<size_t> candidates;
  for (size_t i = 0; i < w.splits.size(); ++i)
    if (can_run(w.splits[i])) candidates.push_back(i);
  if (candidates.empty()) return false;
  w.current = candidates[simt::options().order == simt::Order::kRandom ? random_below(candidates.size()) : 0];
  for (const size_t i : candidates)
    if (goes_before(w.splits[i].pc, w.splits[w.current].pc)) w.current = i;
  return true;
}

// Takes into the current split those that stand at the same place: of a collective also those that wait there.
void merge(Warp& w, bool also_parked) {
  const uint32_t pc = w.splits[w.current].pc;
  for (size_t i = 0; i < w.splits.size();) {
    const Split& s = w.splits[i];
    if (i == w.current || s.pc != pc || (s.parked && !also_parked)) {
      ++i;
      continue;
    }
    w.splits[w.current].lanes |= s.lanes;
    w.splits.erase(w.splits.begin() + std::ptrdiff_t(i));
    if (i < w.current) --w.current;
  }
}

[[noreturn]] void nobody_can_go_on(const Warp& w) {
  std::string text = "the lanes of a warp wait for each other at different places:";
  for (const Split& s : w.splits)
    text += error_text("\n  lanes ", lanes_text(s.lanes), " at ", w.program->where(s.pc));
  throw Error(ErrorKind::kInternal, w.where() + ": " + text);
}

[[noreturn]] void undefined_read(Warp& w, const Instruction& i) {
  const Program& p = *w.program;
  for (int k = 0; k < i.num_reads; ++k) {
    const Unit u = p.pool[i.reads + uint32_t(k)];
    const uint32_t missing = w.mask & ~w.defined[u];
    if (missing == 0) continue;
    std::string text = error_text("reads ", p.name_of(u), ", which holds no value");
    if (is_in_flight(w, u)) text = error_text("reads ", p.name_of(u), ", which an unfinished wgmma writes");
    for (size_t at = 0; at < p.code.size(); ++at) {
      const Instruction& writer = p.code[at];
      for (int j = 0; j < writer.num_writes; ++j)
        if (p.pool[writer.writes + uint32_t(j)] == u) text += error_text("\n  written by ", p.where(at));
    }
    w.fault(std::countr_zero(missing), text);
  }
  w.fault("reads a register that holds no value");
}

// A collective's lanes: all that are named must stand here. False: not yet, and the split is parked.
bool convene(Warp& w, const Instruction& i) {
  merge(w, true);
  Split& s = w.splits[w.current];
  const uint32_t live = w.live();
  if (i.members == kNoUnit) {
    w.mask = live;
    return s.lanes == live;
  }
  const uint32_t* members = w.lanes<uint32_t>(i.members);
  for (uint32_t rest = s.lanes; rest != 0;) {
    const int lane = std::countr_zero(rest);
    const uint32_t wanted = members[lane];
    uint32_t group = 0;  // lanes here that name the same
    for_each_lane(rest, [&](int l) { group |= members[l] == wanted ? 1u << l : 0u; });
    for_each_lane(group & ~wanted, [&](int l) { w.fault(l, "names lanes without itself"); });
    if ((wanted & live) == group) {
      w.mask = group;
      return true;
    }
    rest &= ~group;
  }
  return false;
}

// Leaves `lanes` of the current split at `pc`, as a split of their own; the current one keeps the rest.
void leave(Warp& w, uint32_t lanes, uint32_t pc) {
  w.splits[w.current].lanes &= ~lanes;
  w.splits.push_back({.pc = pc, .lanes = lanes});
}

void exit_lanes(Warp& w, uint32_t lanes) {
  Split& s = w.splits[w.current];
  s.lanes &= ~lanes;
  if (s.lanes == 0) w.splits.erase(w.splits.begin() + std::ptrdiff_t(w.current));
  // Collectives do not wait for those that have exited.
  for (Split& other : w.splits) other.parked = false;
  lanes_exited(w, lanes);
}

void mark_written(Warp& w, const Instruction& i) {
  const Unit* units = w.program->pool.data() + i.writes;
  if (!i.sets_defined)
    for (int k = 0; k < i.num_writes; ++k) w.defined[units[k]] |= w.mask;
  if (w.program->has_wgmma)
    for (int k = 0; k < i.num_writes; ++k) check_wgmma_write(w, units[k]);
}

}  // namespace

uint32_t Warp::live() const {
  uint32_t all = 0;
  for (const Split& s : splits) all |= s.lanes;
  return all;
}

void Warp::fault(const std::string& what) const { fault(mask == 0 ? 0 : std::countr_zero(mask), what); }

void Warp::fault(int lane, const std::string& what) const {
  const uint32_t pc = current < splits.size() ? splits[current].pc : 0;
  throw Error(ErrorKind::kInternal, error_text(where(), ", lane ", lane, ": ", what, "\n  at ",
                                               program->where(pc), "\n  lanes ", lanes_text(mask)));
}

std::string Warp::where() const { return error_text(describe(*block), ", warp ", index); }

Turn run_turn(Warp& w, int64_t budget) {
  for (Split& s : w.splits) s.stalled = false;
  const Program& p = *w.program;
  const Instruction* code = p.code.data();
  while (true) {
    if (!pick(w)) {
      if (w.splits.empty()) return Turn::kExited;
      if (std::all_of(w.splits.begin(), w.splits.end(), [](const Split& s) { return s.parked; }))
        nobody_can_go_on(w);
      return Turn::kStalled;
    }
    // Runs the current split until it parks, stalls, ends, or others go before it.
    while (true) {
      Split* s = &w.splits[w.current];
      const uint32_t pc = s->pc;
      const Instruction& i = code[pc];
      if (i.is_label && w.splits.size() > 1) {
        merge(w, false);
        s = &w.splits[w.current];
        const bool overtaken = std::any_of(w.splits.begin(), w.splits.end(), [&](const Split& other) {
          return !other.parked && !other.stalled && goes_before(other.pc, pc);
        });
        if (overtaken) break;
      }
      if (budget-- <= 0) return Turn::kOutOfBudget;
      w.mask = s->lanes;
      if (i.guard != kNoUnit) {
        if ((w.mask & ~w.defined[i.guard]) != 0) w.fault("is guarded by a predicate that holds no value");
        const uint32_t guard = w.predicate(i.guard);
        w.mask &= i.guard_negated ? ~guard : guard;
      }
      ++w.executed;
      if (w.mask == 0) {
        s->pc = pc + 1;
        continue;
      }
      const Unit* reads = p.pool.data() + i.reads;
      for (int k = 0; k < i.num_reads; ++k)
        if ((w.mask & ~w.defined[reads[k]]) != 0) [[unlikely]]
          undefined_read(w, i);
      if (i.flow == Flow::kPlain) [[likely]] {
        i.run(w, i);
        if (w.retry) [[unlikely]] {
          w.retry = false;
          if (w.mask != s->lanes) leave(w, s->lanes & ~w.mask, pc + 1);
          w.splits[w.current].stalled = true;
          break;
        }
        mark_written(w, i);
        s->pc = pc + 1;
        if (w.yields) [[unlikely]] {
          w.yields = false;
          s->stalled = true;
          break;
        }
        continue;
      }
      if (i.flow == Flow::kBranch) {
        if (w.mask == s->lanes) {
          s->pc = i.target;
        } else {
          if (i.imm != 0) w.fault("a branch that is said to be uniform divides the lanes");
          s->pc = pc + 1;
          leave(w, w.mask, i.target);
          break;  // whoever goes first
        }
        continue;
      }
      if (i.flow == Flow::kExit) {
        s->pc = pc + 1;
        exit_lanes(w, w.mask);
        break;
      }
      // A collective.
      if (w.mask != s->lanes) leave(w, s->lanes & ~w.mask, pc + 1);
      if (!convene(w, i)) {
        w.splits[w.current].parked = true;
        break;
      }
      if (w.mask != w.splits[w.current].lanes) leave(w, w.splits[w.current].lanes & ~w.mask, pc);
      for (int k = 0; k < i.num_reads; ++k)
        if ((w.mask & ~w.defined[reads[k]]) != 0) undefined_read(w, i);
      if (i.run) i.run(w, i);
      s = &w.splits[w.current];
      if (w.retry) {
        w.retry = false;
        s->stalled = true;
        break;
      }
      mark_written(w, i);
      s->pc = pc + 1;
    }
  }
}

}  // namespace llama4rt::ptx_executor
