#include "simt_emulator/checker.h"

#include <elf.h>
#include <link.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <map>

#include "base/error.h"
#include "simt_emulator/device_memory.h"
#include "simt_emulator/shared_memory.h"

namespace llama4rt::simt {

namespace {

// One access in the history of a cell.
struct Record {
  uint32_t block = 0;
  uint32_t clock = 0;
  uint16_t thread = 0;
  uint8_t bytes = 0;  // of the cell, as a mask; 0: no record
  bool atomic = false;
  bool copied = false;  // by an asynchronous copy
  bool bulk = false;    // by one that only an mbarrier tells of, also to its issuer
};

// Two bytes of memory, so that neighbours in bf16 do not meet in one cell; smaller neighbours are told apart
// by the masks.
constexpr size_t kCellBytes = 2;
struct Cell {
  Record write;
  Record readers[2];   // latest of two different warps
  uint32_t block = 0;  // shared memory: contents of another block are nothing
  uint8_t initialised = 0;
  uint8_t pending = 0;  // part of a copy in flight
};

}  // namespace

struct Shadow {
  std::vector<Cell> cells;
  explicit Shadow(size_t bytes) : cells((bytes + kCellBytes - 1) / kCellBytes) {}
};

namespace checker {
namespace {

bool instrumented = false;

struct Knowledge {
  uint32_t clock = 1;
  uint32_t generation = 0;  // lanes[] counts only when it is the block's
  uint32_t lanes[kWarpSize] = {};
  std::shared_ptr<const Clocks> extra;   // from named barriers and mbarriers
  uint32_t proxy_fence = 0;              // counter at the last fence.proxy.async
  std::shared_ptr<const Clocks> fenced;  // what everybody may see after the last __threadfence
};

// What one block has published to others through atomics, by block.
using Published = std::map<uint32_t, std::shared_ptr<const Clocks>>;

const Launch* launch = nullptr;
uint32_t first_block_of_launch = 0;
OverlappedBlocks before_launch;
constexpr uint32_t kAnyKernelBefore = UINT32_MAX;  // the block of as_if_a_kernel_wrote
Block* block = nullptr;
std::vector<Knowledge> threads;
Clocks base;  // known to all since the last whole-block barrier
uint32_t generation = 0;
Published known;                                    // to the running block
std::map<int, Published> met_by_atomics;            // by thread, since its last fence
std::map<const void*, Published> atomic_variables;  // of the launch

Shadow& shared_shadow() {
  static Shadow shadow(kSharedBytes);
  return shadow;
}

uint32_t knows(const Thread& t, int u) {
  const Knowledge& k = threads[size_t(t.id)];
  uint32_t c = base[size_t(u)];
  if (u / kWarpSize == t.warp && k.generation == generation) c = std::max(c, k.lanes[u % kWarpSize]);
  if (k.extra) c = std::max(c, (*k.extra)[size_t(u)]);
  return c;
}

Clocks all_known(const Thread& t) {
  Clocks c(threads.size());
  for (size_t u = 0; u < c.size(); ++u) c[u] = knows(t, int(u));
  c[size_t(t.id)] = threads[size_t(t.id)].clock;
  return c;
}

void merge(Clocks& into, const Clocks& from) {
  into.resize(std::max(into.size(), from.size()));
  for (size_t i = 0; i < from.size(); ++i) into[i] = std::max(into[i], from[i]);
}

void merge(std::shared_ptr<const Clocks>& into, const std::shared_ptr<const Clocks>& from) {
  if (!from || into == from) return;
  if (!into) {
    into = from;
    return;
  }
  auto merged = std::make_shared<Clocks>(*into);
  merge(*merged, *from);
  into = std::move(merged);
}

// By an earlier launch, or the host.
bool from_before(const Record& r) { return r.block < first_block_of_launch || r.block == kAnyKernelBefore; }

// Whether t may rely on what `r` did.
bool ordered(const Record& r, const Thread& t) {
  if (from_before(r)) return t.waited || !(before_launch.contains(r.block) || r.block == kAnyKernelBefore);
  if (r.block == block->number) return (r.thread == t.id && !r.bulk) || knows(t, r.thread) >= r.clock;
  const auto it = known.find(r.block);
  return it != known.end() && (*it->second)[r.thread] >= r.clock;
}

[[noreturn]] void report(const Origin& origin, const std::string& what) {
  fail(what + " at " + origin.text());
}

std::string by_whom(const Record& r) {
  if (from_before(r))
    return error_text("thread ", r.thread, " of a kernel before (griddepcontrol.wait is still to come)");
  if (r.copied) return error_text("an asynchronous copy of thread ", r.thread);
  return r.block == block->number ? error_text("thread ", r.thread)
                                  : error_text("thread ", r.thread, " of another block");
}

// The parts of one access: a cell and the bytes of it that count.
template <class Each>
void for_cells(Shadow& shadow, size_t offset, size_t bytes, uint32_t epoch, const Each& each) {
  for (size_t at = offset; at < offset + bytes;) {
    Cell& cell = shadow.cells[at / kCellBytes];
    if (cell.block != epoch) {
      cell = {};
      cell.block = epoch;
    }
    uint8_t mask = 0;
    for (const size_t end = std::min(offset + bytes, (at / kCellBytes + 1) * kCellBytes); at < end; ++at)
      mask |= uint8_t(1u << at % kCellBytes);
    each(cell, mask);
  }
}

struct Place {
  Shadow* shadow = nullptr;  // null: not checked (the thread's own stack, parameters, constants)
  size_t offset = 0;
  uint32_t epoch = 0;
};

bool in_program(const void* p) {
  static const auto range = [] {
    std::pair<uintptr_t, uintptr_t> r{UINTPTR_MAX, 0};
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* out) {
          auto& found = *static_cast<std::pair<uintptr_t, uintptr_t>*>(out);
          for (int i = 0; i < info->dlpi_phnum; ++i)
            if (info->dlpi_phdr[i].p_type == PT_LOAD) {
              const uintptr_t start = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
              found.first = std::min(found.first, start);
              found.second = std::max(found.second, start + info->dlpi_phdr[i].p_memsz);
            }
          return 1;  // the first object is the program itself
        },
        &r);
    return r;
  }();
  return reinterpret_cast<uintptr_t>(p) >= range.first && reinterpret_cast<uintptr_t>(p) < range.second;
}

Place find_place(const void* p, size_t bytes, Kind kind, const Origin& origin) {
  if (in_shared(p)) {
    const size_t offset = size_t(static_cast<const char*>(p) - shared_arena());
    if (!shared_live(p, bytes))
      report(origin, error_text("out of bounds: ", bytes, " bytes at offset ", offset,
                                " of shared memory, in no object of it"));
    return {&shared_shadow(), offset, block->number};
  }
  if (in_device_heap(p)) {
    Allocation* a = allocation_before(p);
    if (!a) report(origin, "wild pointer: no allocation there");
    const size_t offset = size_t(static_cast<const char*>(p) - a->base);
    if (a->freed) report(origin, error_text("use after free: offset ", offset, " of ", a->describe()));
    if (offset + bytes > a->bytes)
      report(origin,
             error_text("out of bounds: ", bytes, " bytes at offset ", offset, " of ", a->describe()));
    if (!a->shadow) a->shadow = std::make_shared<Shadow>(a->bytes);
    return {a->shadow.get(), offset, 0};
  }
  if (self().fiber.stack.contains(p)) return {};
  const char* parameters = reinterpret_cast<const char*>(launch);
  const char* c = static_cast<const char*>(p);
  if (c >= parameters && c < parameters + launch->closure_bytes && kind == Kind::kRead) return {};
  if (in_program(p) && kind == Kind::kRead) return {};  // constant tables
  report(origin, "host or wild pointer: kernel code may not touch that memory");
}

void check_read(Cell& cell, uint8_t mask, const Thread& t, const Origin& origin) {
  if (cell.pending & mask) report(origin, "read of bytes of an asynchronous copy in flight");
  if ((cell.initialised & mask) != mask) report(origin, "read of memory nobody wrote");
  if ((cell.write.bytes & mask) && !ordered(cell.write, t))
    report(origin, error_text("race: read of what ", by_whom(cell.write), " wrote, with nothing between"));
  const auto mine_or_free = [&](const Record& r) { return r.bytes == 0 || r.thread / kWarpSize == t.warp; };
  Record& slot = mine_or_free(cell.readers[0])                   ? cell.readers[0]
                 : mine_or_free(cell.readers[1])                 ? cell.readers[1]
                 : cell.readers[0].clock < cell.readers[1].clock ? cell.readers[0]
                                                                 : cell.readers[1];
  const bool same = slot.block == block->number && slot.thread == t.id;
  slot = {.block = block->number,
          .clock = threads[size_t(t.id)].clock,
          .thread = uint16_t(t.id),
          .bytes = uint8_t(mask | (same ? slot.bytes : 0))};
}

void check_write(Cell& cell, uint8_t mask, const Thread& t, Kind kind, const Origin& origin) {
  const bool atomic = kind == Kind::kAtomic;
  if (cell.pending & mask) report(origin, "write to bytes of an asynchronous copy in flight");
  if (atomic && (cell.initialised & mask) != mask) report(origin, "atomic on memory nobody wrote");
  if ((cell.write.bytes & mask) && !(atomic && cell.write.atomic) && !ordered(cell.write, t))
    report(origin,
           error_text("race: write after a write by ", by_whom(cell.write), ", with nothing between"));
  for (const Record& r : cell.readers)
    if ((r.bytes & mask) && !ordered(r, t))
      report(origin, error_text("race: write while ", by_whom(r), " may still read"));
  const bool same = cell.write.block == block->number && cell.write.thread == t.id;
  cell.write = {.block = block->number,
                .clock = threads[size_t(t.id)].clock,
                .thread = uint16_t(t.id),
                .bytes = uint8_t(mask | (same ? cell.write.bytes : 0)),
                .atomic = atomic};
  cell.initialised |= mask;
}

}  // namespace

bool enabled() { return instrumented && options().check; }
void set_instrumented() { instrumented = true; }

void begin_launch(const Launch& l, uint32_t first_block, const OverlappedBlocks& before) {
  launch = &l;
  before_launch = before;
  first_block_of_launch = first_block;
  atomic_variables.clear();
}

void begin_block(Block& b) {
  if (!enabled()) return;
  block = &b;
  threads.assign(b.threads.size(), {});
  base.assign(b.threads.size(), 0);
  generation = 1;
  known.clear();
  met_by_atomics.clear();
}

void end_block(Block&) { block = nullptr; }

void access(const void* p, size_t bytes, Kind kind, const Origin& origin) {
  if (!enabled() || bytes == 0) return;
  const Thread& t = self();
  const Place place = find_place(p, bytes, kind, origin);
  if (!place.shadow) return;
  for_cells(*place.shadow, place.offset, bytes, place.epoch, [&](Cell& cell, uint8_t mask) {
    if (kind == Kind::kRead)
      check_read(cell, mask, t, origin);
    else
      check_write(cell, mask, t, kind, origin);
  });
}

void copy_begins(const void* dst, size_t bytes, Site site) {
  if (!enabled() || bytes == 0) return;
  const Origin origin{nullptr, site};
  access(dst, bytes, Kind::kWrite, origin);
  const Place place = find_place(dst, bytes, Kind::kWrite, origin);
  for_cells(*place.shadow, place.offset, bytes, place.epoch,
            [](Cell& cell, uint8_t mask) { cell.pending |= mask; });
}

void copy_lands(const void* dst, size_t bytes, const Thread& issuer, uint32_t clock) {
  if (!enabled() || bytes == 0 || !in_shared(dst)) return;
  const size_t offset = size_t(static_cast<const char*>(dst) - shared_arena());
  const uint32_t at = clock ? clock : threads[size_t(issuer.id)].clock;
  for_cells(shared_shadow(), offset, bytes, block->number, [&](Cell& cell, uint8_t mask) {
    cell.pending &= uint8_t(~mask);
    cell.initialised |= mask;
    cell.write = {block->number, at, uint16_t(issuer.id), mask, false, true, clock != 0};
  });
}

uint32_t tick(const Thread& t) { return enabled() ? threads[size_t(t.id)].clock++ : 1; }

void async_proxy_reads(const void* p, size_t bytes, Site site) {
  if (!enabled() || bytes == 0) return;
  const Origin origin{nullptr, site};
  access(p, bytes, Kind::kRead, origin);
  const Place place = find_place(p, bytes, Kind::kRead, origin);
  for_cells(*place.shadow, place.offset, bytes, place.epoch, [&](const Cell& cell, uint8_t mask) {
    const Record& w = cell.write;
    if ((w.bytes & mask) == 0 || w.copied || w.block != block->number) return;
    if (threads[w.thread].proxy_fence < w.clock)
      report(origin, error_text("asynchronous read of what thread ", w.thread,
                                " stored without a fence.proxy.async since"));
  });
}

void proxy_fence() {
  if (!enabled()) return;
  Knowledge& k = threads[size_t(self().id)];
  k.proxy_fence = k.clock++;
}

void block_barrier(Block& b) {
  if (!enabled()) return;
  ++generation;
  for (size_t u = 0; u < b.threads.size(); ++u) {
    base[u] = threads[u].clock++;
    threads[u].extra.reset();
  }
}

void named_barrier(Block& b, const std::vector<int>& arrivals, const std::vector<int>& waiting) {
  if (!enabled()) return;
  auto all = std::make_shared<Clocks>(threads.size());
  for (const int u : arrivals) merge(*all, all_known(*b.threads[size_t(u)]));
  for (const int u : arrivals) ++threads[size_t(u)].clock;
  const std::shared_ptr<const Clocks> shared = all;
  for (const int u : waiting) merge(threads[size_t(u)].extra, shared);
}

void warp_barrier(Block& b, int warp, uint32_t members) {
  if (!enabled()) return;
  uint32_t lanes[kWarpSize] = {};
  std::shared_ptr<const Clocks> extra;
  const auto each = [&](const auto& f) {
    for (int i = 0; i < kWarpSize; ++i)
      if (members >> i & 1u) f(i, threads[size_t(warp * kWarpSize + i)]);
  };
  each([&](int i, const Knowledge& k) {
    const Thread& t = *b.threads[size_t(warp * kWarpSize + i)];
    for (int j = 0; j < kWarpSize && warp * kWarpSize + j < int(threads.size()); ++j)
      lanes[j] = std::max(lanes[j], knows(t, warp * kWarpSize + j));
    lanes[i] = std::max(lanes[i], k.clock);
    merge(extra, k.extra);
  });
  each([&](int, Knowledge& k) {
    std::copy(lanes, lanes + kWarpSize, k.lanes);
    k.generation = generation;
    k.extra = extra;
    ++k.clock;
  });
}

void read_for_warp(Block& b, int warp, uint32_t members) {
  if (!enabled()) return;
  Knowledge& reader = threads[size_t(self().id)];
  for (int i = 0; i < kWarpSize; ++i) {
    if ((members >> i & 1u) == 0) continue;
    const int id = warp * kWarpSize + i;
    Knowledge& k = threads[size_t(id)];
    uint32_t lanes[kWarpSize] = {};
    for (int j = 0; j < kWarpSize && warp * kWarpSize + j < int(threads.size()); ++j)
      lanes[j] = knows(*b.threads[size_t(id)], warp * kWarpSize + j);
    lanes[self().lane] = std::max(lanes[self().lane], reader.clock);
    std::copy(lanes, lanes + kWarpSize, k.lanes);
    k.generation = generation;
  }
  ++reader.clock;
}

void release_into(Clocks& clocks) {
  if (!enabled()) return;
  merge(clocks, all_known(self()));
  ++threads[size_t(self().id)].clock;
}

void acquire_from(const Clocks& clocks) {
  if (!enabled() || clocks.empty()) return;
  merge(threads[size_t(self().id)].extra, std::make_shared<const Clocks>(clocks));
}

void fence() {
  if (!enabled()) return;
  // What an atomic before it has read of others is known only from here on.
  for (const auto& [number, clocks] : met_by_atomics[self().id])
    if (number != block->number) merge(known[number], clocks);
  met_by_atomics.erase(self().id);
  Knowledge& k = threads[size_t(self().id)];
  k.fenced = std::make_shared<const Clocks>(all_known(self()));
  ++k.clock;
}

void atomic_orders(const void* p) {
  if (!enabled()) return;
  Published& variable = atomic_variables[p];
  for (const auto& [number, clocks] : variable) merge(met_by_atomics[self().id][number], clocks);
  for (const auto& [number, clocks] : known) merge(variable[number], clocks);
  if (const auto& fenced = threads[size_t(self().id)].fenced) merge(variable[block->number], fenced);
}

void ordered_atomic(const void* p, bool releases, bool acquires) {
  if (!enabled()) return;
  if (acquires)
    for (const auto& [number, clocks] : atomic_variables[p])
      if (number != block->number) merge(known[number], clocks);
  atomic_orders(p);
  if (!releases) return;
  Knowledge& k = threads[size_t(self().id)];
  merge(atomic_variables[p][block->number], std::make_shared<const Clocks>(all_known(self())));
  ++k.clock;
}

namespace {
// The host has written, or `by`.
void wrote(const void* p, size_t bytes, const Record& by) {
  if (!instrumented || bytes == 0) return;
  Allocation* a = allocation_before(p);
  if (!a->shadow) a->shadow = std::make_shared<Shadow>(a->bytes);
  for_cells(*a->shadow, size_t(static_cast<const char*>(p) - a->base), bytes, 0,
            [&](Cell& cell, uint8_t mask) {
              cell.initialised |= mask;
              cell.write.bytes &= uint8_t(~mask);
              for (Record& r : cell.readers) r.bytes &= uint8_t(~mask);
              if (by.block == 0) return;
              cell.write = by;
              cell.write.bytes = mask;
            });
}
}  // namespace

void host_wrote(const void* p, size_t bytes) { wrote(p, bytes, {}); }
void as_if_a_kernel_wrote(const void* p, size_t bytes) { wrote(p, bytes, {.block = kAnyKernelBefore}); }

}  // namespace checker

namespace {

// File and line of a return address, by addr2line where there is one.
std::string resolve(const void* pc) {
  uintptr_t start = 0;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* out) {
        *static_cast<uintptr_t*>(out) = info->dlpi_addr;
        return 1;
      },
      &start);
  char program[4096] = {};
  if (readlink("/proc/self/exe", program, sizeof program - 1) <= 0) return error_text(pc);
  // The call returns behind the access: one byte back is still inside it.
  const uintptr_t at = reinterpret_cast<uintptr_t>(pc) - start - 1;
  const std::string command = error_text("addr2line -e '", program, "' 0x", std::hex, at, " 2>&1");
  std::string text;
  if (FILE* pipe = popen(command.c_str(), "r")) {
    char line[4096];
    if (std::fgets(line, sizeof line, pipe)) text = line;
    pclose(pipe);
  }
  text.resize(std::min(text.size(), text.find('\n')));
  if (const size_t note = text.find(" (discriminator"); note != std::string::npos) text.resize(note);
  if (text.empty() || text[0] == '?' || text.find(':') == std::string::npos) return error_text(pc);
  return text.substr(text.rfind('/') + 1);
}

}  // namespace

std::string Origin::text() const { return pc ? resolve(pc) : site.text(); }

}  // namespace llama4rt::simt
