// The executor: runs a grid of CUDA threads as fibers, block after block, on one operating system thread.
//
// A thread runs until it waits for others: at a warp collective (warp.h), a CTA barrier (barrier.h) or a
// predicate (mbarrier.h). The order in which warps, lanes and blocks get their turn is an option, because
// many wrong kernels are right in one order. When nothing can run, the oldest asynchronous operation lands
// (async.h); when there is none, that is a deadlock, reported with who waits where.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "simt_emulator/fiber.h"
#include "simt_emulator/site.h"

namespace llama4rt::simt {

enum class Order { kAscending, kDescending, kRandom };
// When asynchronous copies move their bytes: as late as the program allows, at once, or a coin for each.
enum class Async { kLazy, kEager, kRandom };

struct Options {
  Order order = Order::kAscending;
  Async async = Async::kLazy;
  uint64_t seed = 1;
  bool check = true;  // races, bounds, uninitialised reads; only in kernels built for it (checker.h)
};
Options& options();
// The next number of the seeded sequence, below n.
uint64_t random_below(uint64_t n);
// Whether the next asynchronous copy is performed at issue.
bool copy_at_issue();

struct Dim3 {
  int x = 1, y = 1, z = 1;
  int count() const { return x * y * z; }
};

constexpr int kWarpSize = 32;
constexpr int kMaxThreads = 1024;

// A launch as the host asked for it. call() runs the kernel for the current thread; the object is what a GPU
// calls parameter space.
struct Launch {
  std::string name;
  Dim3 grid;
  int threads = 1;  // of a block, along x
  size_t dynamic_shared = 0;
  size_t closure_bytes = 0;  // of the most derived object
  bool overlaps = false;     // may start before the kernel before is done
  virtual ~Launch() = default;
  virtual void call() const = 0;
  // The kernel, and where its arguments lie and how many bytes they have: for whoever runs compiled code instead.
  virtual const void* address() const = 0;
  virtual std::vector<std::pair<const void*, size_t>> argument_bytes() const = 0;
};

struct Block;

enum class State : uint8_t { kReady, kInWarp, kInBarrier, kWaiting, kDone };

// A cp.async whose bytes have not moved.
struct ThreadCopy {
  char* dst;
  const char* src;
  int bytes;
  int src_bytes;  // the rest is zero
  Site site;
};

struct Thread {
  Fiber fiber;
  Block* block = nullptr;
  int id = 0, lane = 0, warp = 0;
  State state = State::kReady;
  bool waited = false;  // for the kernels before; from the start when the launch does not overlap
  // what it waits for
  const char* what = "";
  Site site;
  uint32_t mask = 0;
  void* payload = nullptr;
  int barrier = 0;
  bool (*ready)(void*) = nullptr;
  void* ready_context = nullptr;
  // cp.async
  std::vector<ThreadCopy> open_copies;
  std::deque<std::vector<ThreadCopy>> copy_groups;
};

struct Warp {
  uint32_t existing = 0;  // lanes the block has
  uint32_t exited = 0;
  uint32_t posted = 0;  // lanes that wait in a collective
};

struct Barrier {
  int expected = 0;  // 0: idle
  int arrived = 0;
  std::vector<int> waiting, arrivals;  // thread ids; arrivals includes those that do not wait
  std::vector<Site> warp_site;         // where lanes of each warp wait
  int predicate_count = 0;
  int result = 0;
};
constexpr int kNumBarriers = 16;

// An asynchronous operation of the block that lands by itself: TMA loads.
struct BlockCopy {
  std::function<void()> perform;
  std::string what;
};

struct Block {
  const Launch* launch = nullptr;
  Dim3 index;
  uint32_t number = 0;  // counts every block ever run
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<Warp> warps;
  Barrier barriers[kNumBarriers];
  std::deque<BlockCopy> copies;
  int live = 0;

  std::string where() const;  // "rmsnorm, block (0,1,0)"
};

// --- for kernels (through simt.h and ptx/)

Thread& self();  // the current thread; throws outside a kernel
bool in_kernel();
// Parks the current thread until ready() is true. `what` names it in a deadlock report.
void wait_until(const char* what, Site site, bool (*ready)(void*), void* context);
void yield_turn();
// griddepcontrol.wait
void grid_wait(Site site);
void thread_exits(Thread& t);  // called by the executor

// Ends the launch with this report; called by a thread, never returns to it.
[[noreturn]] void fail(const std::string& text);
[[noreturn]] void fail_at(Site site, const std::string& text);
std::string describe(const Thread& t);  // "thread 37 (warp 1, lane 5)"

// True while the emulator itself runs: memory accesses are then nobody's (checker.h).
extern bool in_runtime;
class InRuntime {
 public:
  InRuntime();  // not inline: an instrumented copy would report its own store
  ~InRuntime();
  InRuntime(const InRuntime&) = delete;
  InRuntime& operator=(const InRuntime&) = delete;

 private:
  bool before_;
};

// --- for the host runtime

// Blocks of the kernels that a launch may overlap with: those since the last one that waited for everything.
struct OverlappedBlocks {
  uint32_t first = 0, last = 0;  // numbers, both included; 0: none
  bool contains(uint32_t block) const { return block >= first && block <= last; }
};

// Runs all blocks. Throws Error(kInternal) with the report when a thread failed. `before` is what its threads
// have to wait for if it overlaps, and becomes what the next launch of the stream has to.
void run_grid(const Launch& launch, OverlappedBlocks& before);

}  // namespace llama4rt::simt
