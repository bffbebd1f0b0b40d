#include "simt_emulator/executor.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <numeric>

#include "base/error.h"
#include "simt_emulator/async.h"
#include "simt_emulator/barrier.h"
#include "simt_emulator/checker.h"
#include "simt_emulator/faults.h"
#include "simt_emulator/matrix.h"
#include "simt_emulator/shared_memory.h"
#include "simt_emulator/warp.h"

namespace llama4rt::simt {

bool in_runtime = true;

namespace {

Fiber scheduler;
Thread* current = nullptr;
std::string failure;  // of the running launch; not empty: the launch ends
uint32_t blocks_run = 0;
uint64_t random_state = 0;

StackPool& stacks() {
  static StackPool pool;
  return pool;
}

// Numbers 0..n-1 in the order asked for.
std::vector<int> turns(int n) {
  std::vector<int> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  if (options().order == Order::kDescending) std::reverse(order.begin(), order.end());
  if (options().order == Order::kRandom)
    for (int i = n - 1; i > 0; --i) std::swap(order[size_t(i)], order[random_below(uint64_t(i) + 1)]);
  return order;
}

bool runnable(const Thread& t) {
  return t.state == State::kReady || (t.state == State::kWaiting && t.ready(t.ready_context));
}

void to_scheduler(bool ends = false) { switch_fiber(current->fiber, scheduler, ends); }

void run_thread(Thread& t) {
  t.state = State::kReady;
  current = &t;
  switch_fiber(scheduler, t.fiber);
  current = nullptr;
}

void thread_main() {
  fiber_entered();
  Thread& t = *current;
  in_runtime = false;
  t.block->launch->call();
  in_runtime = true;
  thread_exits(t);
  to_scheduler(true);
}

// "0-31,64,66-70" of thread ids in ascending order.
std::string ranges(const std::vector<int>& ids) {
  std::string text;
  for (size_t i = 0; i < ids.size();) {
    size_t j = i;
    while (j + 1 < ids.size() && ids[j + 1] == ids[j] + 1) ++j;
    text += (text.empty() ? "" : ",") + std::to_string(ids[i]);
    if (j > i) text += "-" + std::to_string(ids[j]);
    i = j + 1;
  }
  return text;
}

std::string waits_for(const Block& b, const Thread& t) {
  switch (t.state) {
    case State::kInWarp:
      return error_text("waits in ", t.what, " with mask ", std::hex, t.mask, " at ", t.site.text());
    case State::kInBarrier: {
      const Barrier& bar = b.barriers[t.barrier];
      const int wanted = bar.expected > 0 ? bar.expected : b.live;
      return error_text("waits at barrier ", t.barrier, " (", bar.arrived, " of ", wanted, " arrived) at ",
                        t.site.text());
    }
    default:
      return error_text("waits for ", t.what, " at ", t.site.text());
  }
}

std::string deadlock_report(const Block& b) {
  std::map<std::string, std::vector<int>> groups;
  for (const auto& t : b.threads)
    if (t->state != State::kDone) groups[waits_for(b, *t)].push_back(t->id);
  std::string text = "deadlock in " + b.where() + ":";
  for (const auto& [what, ids] : groups)
    text += error_text("\n  threads ", ranges(ids), " (", ids.size(), "): ", what);
  return text;
}

// Runs lanes of a warp until none of them can go on. True when at least one ran.
bool run_warp(Block& b, int warp) {
  const int first = warp * kWarpSize, count = std::min(kWarpSize, int(b.threads.size()) - first);
  bool any = false;
  for (bool ran = true; ran && failure.empty();) {
    ran = false;
    for (const int lane : turns(count)) {
      Thread& t = *b.threads[size_t(first + lane)];
      if (t.state == State::kDone || !runnable(t)) continue;
      run_thread(t);
      any = ran = true;
      if (!failure.empty()) break;
    }
  }
  return any;
}

void run_block(const Launch& launch, Dim3 index, Block& b) {
  b.launch = &launch;
  b.index = index;
  b.number = ++blocks_run;
  b.live = launch.threads;
  const int num_warps = (launch.threads + kWarpSize - 1) / kWarpSize;
  b.warps.assign(size_t(num_warps), {});
  b.threads.clear();
  for (int i = 0; i < launch.threads; ++i) {
    auto t = std::make_unique<Thread>();
    t->block = &b;
    t->id = i;
    t->lane = i % kWarpSize;
    t->warp = i / kWarpSize;
    t->waited = !launch.overlaps;
    b.warps[size_t(t->warp)].existing |= 1u << t->lane;
    start_fiber(t->fiber, stacks().get(size_t(i)), thread_main);
    b.threads.push_back(std::move(t));
  }
  for (Barrier& bar : b.barriers) bar = {};
  b.copies.clear();
  begin_shared_memory(b);
  begin_async(b);
  begin_matrix(b);
  checker::begin_block(b);

  while (b.live > 0 && failure.empty()) {
    bool progress = false;
    for (const int warp : turns(num_warps)) {
      progress |= run_warp(b, warp);
      if (!failure.empty()) break;
    }
    if (!failure.empty() || progress) continue;
    if (land_oldest_copy(b)) continue;
    failure = deadlock_report(b);
  }
  if (failure.empty()) failure = left_in_flight(b);
  if (failure.empty()) failure = wgmma_in_flight(b);
  checker::end_block(b);
}

}  // namespace

InRuntime::InRuntime() : before_(in_runtime) { in_runtime = true; }
InRuntime::~InRuntime() { in_runtime = before_; }

Options& options() {
  static Options o;
  return o;
}

uint64_t random_below(uint64_t n) {  // splitmix64
  uint64_t z = random_state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return (z ^ (z >> 31)) % n;
}

bool copy_at_issue() {
  return options().async == Async::kEager || (options().async == Async::kRandom && random_below(2) == 0);
}

std::string Block::where() const {
  return error_text(launch->name, ", block (", index.x, ",", index.y, ",", index.z, ")");
}

bool in_kernel() { return current != nullptr; }

Thread& self() {
  LLAMA4RT_CHECK(kInternal, current, "a device function was called by the host");
  return *current;
}

std::string describe(const Thread& t) {
  return error_text("thread ", t.id, " (warp ", t.warp, ", lane ", t.lane, ")");
}

void fail(const std::string& text) {
  failure = error_text(text, "\n  by ", describe(*current), " of ", current->block->where());
  to_scheduler();
  std::abort();  // the scheduler never comes back to a failed launch
}

void fail_at(Site site, const std::string& text) { fail(text + " at " + site.text()); }

void wait_until(const char* what, Site site, bool (*ready)(void*), void* context) {
  Thread& t = self();
  if (ready(context)) return;
  t.state = State::kWaiting;
  t.what = what;
  t.site = site;
  t.ready = ready;
  t.ready_context = context;
  to_scheduler();
}

void yield_turn() {
  InRuntime guard;
  to_scheduler();
}

void grid_wait(Site site) {
  InRuntime guard;
  if (!fault_at(FaultKind::kGridWait, site)) self().waited = true;
}

void park(State state) {
  current->state = state;
  to_scheduler();
}

void thread_exits(Thread& t) {
  t.copy_groups.push_back(t.open_copies);
  for (const auto& group : t.copy_groups)  // groups may be empty
    if (!group.empty()) fail("exit with cp.async copies in flight, issued at " + group.front().site.text());
  if (!t.waited)
    fail("exit without griddepcontrol.wait: the next kernel would start before what came before is done");
  t.state = State::kDone;
  --t.block->live;
  t.block->warps[size_t(t.warp)].exited |= 1u << t.lane;
  retest_warp(*t.block, t.warp);
  retest_barrier(*t.block);
}

void run_grid(const Launch& launch, OverlappedBlocks& before) {
  LLAMA4RT_CHECK(kInternal, launch.threads >= 1 && launch.threads <= kMaxThreads, launch.name,
                 ": launched with blocks of ", launch.threads, " threads");
  LLAMA4RT_CHECK(kInternal,
                 launch.grid.x >= 1 && launch.grid.y >= 1 && launch.grid.y <= 65535 && launch.grid.z >= 1 &&
                     launch.grid.z <= 65535,
                 launch.name, ": launched with a grid of ", launch.grid.x, " x ", launch.grid.y, " x ",
                 launch.grid.z);
  random_state = options().seed;
  failure.clear();
  if (!launch.overlaps) before = {};
  const uint32_t first_block = blocks_run + 1;
  checker::begin_launch(launch, first_block, before);
  Block block;
  for (const int i : turns(launch.grid.count())) {
    const Dim3 index{i % launch.grid.x, i / launch.grid.x % launch.grid.y, i / launch.grid.x / launch.grid.y};
    run_block(launch, index, block);
    if (!failure.empty())
      throw Error(ErrorKind::kInternal, error_text(failure, "\n  (seed ", options().seed, ")"));
  }
  before = {before.first == 0 ? first_block : before.first, blocks_run};
}

}  // namespace llama4rt::simt
