// The checker: what compute-sanitizer tells about a kernel on a GPU, told about the emulated one. It reports
// races between threads that no barrier orders, accesses outside of every live object, reads of memory nobody
// wrote, and touching bytes of an asynchronous copy in flight.
//
// It sees the loads and stores of kernel code because kernel files are compiled with g++ -fsanitize=thread,
// used as an instrumenter only: each access becomes a call, and tsan_hooks.cpp answers it. In a build without
// that (LLAMA4RT_SIMT_CHECKED off, or another sanitizer) every function here does nothing.
//
// Order is kept as vector clocks of one block: thread u's counter advances when u releases (barrier,
// __syncwarp, mbarrier arrive), and every thread knows up to which counter it may see the others. Between
// blocks of one launch only fence + atomic orders. Launches order, unless they overlap with the kernels
// before: then griddepcontrol.wait does.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "simt_emulator/executor.h"

namespace llama4rt::simt {

// Where an access comes from: a return address in instrumented code, or the site of a ptx function.
struct Origin {
  const void* pc = nullptr;
  Site site;
  std::string text() const;
};

// Per thread of a block, the counter up to which its accesses are known.
using Clocks = std::vector<uint32_t>;

namespace checker {

bool enabled();
void set_instrumented();  // called by the instrumented code itself, at start

void begin_launch(const Launch& launch, uint32_t first_block, const OverlappedBlocks& before);
void begin_block(Block& b);
void end_block(Block& b);

// --- accesses by the current thread
enum class Kind : uint8_t { kRead, kWrite, kAtomic };
void access(const void* p, size_t bytes, Kind kind, const Origin& origin);
// The bytes of an asynchronous copy, from issue (a write by the issuer, then nobody's) to landing.
void copy_begins(const void* dst, size_t bytes, Site site);
// `clock`: the issuer's counter at issue (TMA), or 0 for its counter now (cp.async).
void copy_lands(const void* dst, size_t bytes, const Thread& issuer, uint32_t clock);
// The issuer's counter now, which then advances.
uint32_t tick(const Thread& t);
// Read by TMA or wgmma: what threads stored there needs their fence.proxy.async in between.
void async_proxy_reads(const void* p, size_t bytes, Site site);
void proxy_fence();

// --- order
void block_barrier(Block& b);
void named_barrier(Block& b, const std::vector<int>& arrivals, const std::vector<int>& waiting);
void warp_barrier(Block& b, int warp, uint32_t members);
// What the current thread has read, it has read for the whole warp (wgmma): each of these lanes may release it.
void read_for_warp(Block& b, int warp, uint32_t members);
void release_into(Clocks& clocks);        // by the current thread
void acquire_from(const Clocks& clocks);  // by the current thread
void fence();                             // __threadfence
// A relaxed atomic on *p: releases what was fenced before, and the thread's next fence acquires what it met.
void atomic_orders(const void* p);

// --- the host
void host_wrote(const void* p, size_t bytes);  // device memory
// From now on that device memory counts as written by the kernel before: a kernel that overlaps must have
// waited when it touches it.
void as_if_a_kernel_wrote(const void* p, size_t bytes);

}  // namespace checker
}  // namespace llama4rt::simt
