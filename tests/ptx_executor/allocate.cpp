#include "ptx_executor/allocate.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <queue>

namespace llama4rt::ptx_executor {
namespace {

using Bits = std::vector<uint64_t>;  // a set of units

void put(Bits& set, Unit u) { set[u / 64] |= uint64_t(1) << u % 64; }
void take(Bits& set, Unit u) { set[u / 64] &= ~(uint64_t(1) << u % 64); }

// Instructions [begin, end) without a label or a branch inside.
struct Stretch {
  size_t begin = 0, end = 0;
  std::vector<size_t> next;
  Bits read_first, replaced, live_in, live_out;
};

std::vector<Stretch> stretches_of(const Program& p, size_t words) {
  std::vector<Stretch> all;
  std::map<size_t, size_t> starting_at;
  for (size_t at = 0; at < p.code.size(); ++at) {
    const bool after_jump =
        at > 0 && (p.code[at - 1].flow == Flow::kBranch || p.code[at - 1].flow == Flow::kExit);
    if (at == 0 || p.code[at].is_label || after_jump) {
      starting_at[at] = all.size();
      all.push_back({.begin = at,
                     .end = at,
                     .next = {},
                     .read_first = Bits(words),
                     .replaced = Bits(words),
                     .live_in = Bits(words),
                     .live_out = Bits(words)});
    }
    all.back().end = at + 1;
  }
  for (size_t s = 0; s < all.size(); ++s) {
    const Instruction& last = p.code[all[s].end - 1];
    if (last.flow == Flow::kBranch) all[s].next.push_back(starting_at.at(last.target));
    const bool always_leaves =
        last.guard == kNoUnit && (last.flow == Flow::kBranch || last.flow == Flow::kExit);
    if (!always_leaves && s + 1 < all.size()) all[s].next.push_back(s + 1);
  }
  return all;
}

void find_live(std::vector<Stretch>& all, const std::vector<Uses>& uses) {
  for (Stretch& s : all)
    for (size_t at = s.end; at-- > s.begin;) {
      if (uses[at].replaces)
        for (const Unit u : uses[at].writes) {
          put(s.replaced, u);
          take(s.read_first, u);
        }
      for (const Unit u : uses[at].reads) put(s.read_first, u);
    }
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t s = all.size(); s-- > 0;) {
      Stretch& here = all[s];
      for (size_t word = 0; word < here.live_in.size(); ++word) {
        uint64_t out = 0;
        for (const size_t next : here.next) out |= all[next].live_in[word];
        const uint64_t in = here.read_first[word] | (out & ~here.replaced[word]);
        changed = changed || in != here.live_in[word];
        here.live_in[word] = in;
        here.live_out[word] = out;
      }
    }
  }
}

// From the first to the last instruction at which a value may be needed; holes in between are not used.
struct Range {
  size_t begin = SIZE_MAX, end = 0;
  void cover(size_t from, size_t to) {
    begin = std::min(begin, from);
    end = std::max(end, to);
  }
};

std::vector<Range> ranges_of(const std::vector<Stretch>& all, const std::vector<Uses>& uses, size_t units) {
  std::vector<Range> ranges(units);
  for (const Stretch& s : all) {
    for (size_t word = 0; word < s.live_in.size(); ++word)
      for (size_t bit = 0; bit < 64; ++bit) {
        const size_t u = word * 64 + bit;
        if ((s.live_in[word] >> bit & 1u) != 0) ranges[u].cover(s.begin, s.begin);
        if ((s.live_out[word] >> bit & 1u) != 0) ranges[u].cover(s.end - 1, s.end - 1);
      }
    for (size_t at = s.begin; at < s.end; ++at) {
      for (const Unit u : uses[at].reads) ranges[u].cover(at, at);
      for (const Unit u : uses[at].writes) ranges[u].cover(at, at);
    }
  }
  return ranges;
}

}  // namespace

void allocate(Program& p, const std::vector<Uses>& uses) {
  const size_t units = p.first_special;
  std::vector<Stretch> all = stretches_of(p, (units + 63) / 64);
  find_live(all, uses);
  const std::vector<Range> ranges = ranges_of(all, uses, (units + 63) / 64 * 64);

  std::vector<Unit> order;
  for (Unit u = 1; u < units; ++u)
    if (ranges[u].begin != SIZE_MAX) order.push_back(u);
  std::sort(order.begin(), order.end(), [&](Unit a, Unit b) { return ranges[a].begin < ranges[b].begin; });
  // Free places of each kind of register, and when those taken become free. The lowest first: it was used last. Where lanes
  // have parted, some still need a value when others have the next one in its place: so only registers that keep a lane at
  // the same bytes may follow each other.
  std::map<uint8_t, std::priority_queue<uint32_t, std::vector<uint32_t>, std::greater<>>> free;
  using Taken = std::pair<size_t, Unit>;  // until behind which instruction
  std::priority_queue<Taken, std::vector<Taken>, std::greater<>> taken;
  uint32_t next = p.place_units;
  for (const Unit u : order) {
    while (!taken.empty() && taken.top().first < ranges[u].begin) {
      free[p.bits_of[taken.top().second]].push(p.place[taken.top().second]);
      taken.pop();
    }
    auto& fitting = free[p.bits_of[u]];
    if (fitting.empty()) {
      p.place[u] = next;
      next += places_of(p.bits_of[u]);
    } else {
      p.place[u] = fitting.top();
      fitting.pop();
    }
    taken.emplace(ranges[u].end, u);
  }
  p.place_units = next;
}

}  // namespace llama4rt::ptx_executor
