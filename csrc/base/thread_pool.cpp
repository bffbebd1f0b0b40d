#include "base/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <exception>
#include <fstream>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/checked_math.h"
#include "base/error.h"
#include "base/spin_pause.h"

namespace llama4rt {
namespace {

// About 50 microseconds of spinning: longer than the serial parts of a decode step, far shorter than a
// person.
constexpr int kSpinTurns = 20000;

double cgroup_cpu_limit() {
  std::ifstream v2("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (v2 >> quota >> period && quota != "max" && period > 0)
    return std::strtod(quota.c_str(), nullptr) / period;
  std::ifstream v1_quota("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"),
      v1_period("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  double q = 0;
  if (v1_quota >> q && v1_period >> period && q > 0 && period > 0) return q / period;
  return 0;
}

}  // namespace

int available_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int cpus = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set)
                                                          : int(std::thread::hardware_concurrency());
  const double limit = cgroup_cpu_limit();
  if (limit > 0) cpus = std::min(cpus, int(std::ceil(limit)));
  return std::max(cpus, 1);
}

struct ThreadPool::State {
  explicit State(int n) : num_threads(n) {}

  const int num_threads;
  std::vector<std::thread> workers;
  const std::function<void(int, int)>* task = nullptr;
  // One word, so that joining a task and closing it cannot pass each other: which task, whether it takes
  // members still, and how many of the workers are in it.
  static constexpr uint64_t kActiveMask = 0xffff, kClosed = 0x10000, kOneTask = 0x20000;
  alignas(64) std::atomic<uint64_t> ticket{kClosed};
  alignas(64) std::atomic<int> pending{0};  // workers that have not finished this task
  std::atomic<int> sleepers{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::condition_variable wake;
  std::mutex error_mutex;
  std::exception_ptr error;

  void run_member(int member) {
    try {
      (*task)(member, num_threads);
    } catch (...) {
      std::lock_guard lock(error_mutex);
      if (!error) error = std::current_exception();
    }
  }

  uint64_t task_number(std::memory_order order = std::memory_order_seq_cst) const {
    return ticket.load(order) / kOneTask;
  }

  // Returns the new task's number, or the old one when the pool stops.
  uint64_t wait_for_task(uint64_t seen) {
    for (int turn = 0; turn < kSpinTurns; ++turn) {
      const uint64_t now = task_number(std::memory_order_acquire);
      if (now != seen || stop.load(std::memory_order_relaxed)) return now;
      spin_pause();
    }
    std::unique_lock lock(mutex);
    sleepers.fetch_add(1);
    wake.wait(lock, [&] { return task_number() != seen || stop.load(); });
    sleepers.fetch_sub(1);
    return task_number();
  }

  // False when the task is closed already, or over.
  bool join(uint64_t number) {
    uint64_t now = ticket.load(std::memory_order_acquire);
    while (now / kOneTask == number && !(now & kClosed))
      if (ticket.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel)) return true;
    return false;
  }

  void worker(int member) {
    pthread_setname_np(pthread_self(), "llama4rt-worker");  // else it has its creator's name
    uint64_t seen = 0;
    while (true) {
      const uint64_t now = wait_for_task(seen);
      if (now == seen) return;  // stopped
      seen = now;
      if (!join(now)) continue;
      run_member(member);
      pending.fetch_sub(1, std::memory_order_release);
      ticket.fetch_sub(1, std::memory_order_release);  // last: from here on the caller may return
    }
  }

  template <class Done>
  static void wait_until(const Done& done) {
    for (int turn = 0; !done(); ++turn) {
      if (turn < kSpinTurns)
        spin_pause();
      else
        std::this_thread::yield();
    }
  }

  // Closes the task, waits for the members that are in it and passes on what they threw.
  void end_task() {
    ticket.fetch_or(kClosed, std::memory_order_acq_rel);
    wait_until([&] { return (ticket.load(std::memory_order_acquire) & kActiveMask) == 0; });
    if (error) std::rethrow_exception(std::exchange(error, nullptr));
  }

  // Starts the workers that are not there yet: all of them, or the rest after an earlier failure. One that comes
  // late finds the tasks before it closed.
  void start() {
    workers.reserve(size_t(num_threads - 1));
    for (int member = int(workers.size()) + 1; member < num_threads; ++member) {
      try {
        workers.emplace_back([this, member] { worker(member); });
      } catch (const std::system_error& e) {
        throw Error(
            ErrorKind::kInternal,
            error_text("thread ", member + 1, " of ", num_threads, " cannot be started (", e.what(),
                       "): the system's or the user's limit of threads or of memory is reached; choose a "
                       "smaller num_threads"));
      }
    }
  }
};

ThreadPool::ThreadPool(int num_threads)
    : state_(std::make_unique<State>(num_threads > 0 ? num_threads : available_cpus())) {}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(state_->mutex);
    state_->stop.store(true);
  }
  state_->wake.notify_all();
  for (std::thread& t : state_->workers) t.join();
}

int ThreadPool::num_threads() const { return state_->num_threads; }

void ThreadPool::begin(const std::function<void(int, int)>& task) {
  State& s = *state_;
  if (s.workers.size() + 1 < size_t(s.num_threads)) s.start();
  s.task = &task;
  s.pending.store(s.num_threads - 1, std::memory_order_relaxed);
  // Nobody is active here. seq_cst: ordered with the read of `sleepers` below and with wait_for_task.
  s.ticket.store((s.task_number() + 1) * State::kOneTask);
  if (s.sleepers.load() > 0) {
    {
      std::lock_guard lock(s.mutex);
    }  // a worker between its test and its wait holds this mutex
    s.wake.notify_all();
  }
}

void ThreadPool::run(const std::function<void(int, int)>& task) {
  State& s = *state_;
  if (s.num_threads == 1) return task(0, 1);
  begin(task);
  s.run_member(0);
  State::wait_until([&] { return s.pending.load(std::memory_order_acquire) == 0; });
  s.end_task();
}

void ThreadPool::run_shared(const std::function<void(int, int)>& task) {
  State& s = *state_;
  if (s.num_threads == 1) return task(0, 1);
  begin(task);
  s.run_member(0);
  s.end_task();
}

void ThreadPool::parallel_for(int64_t count, int64_t grain,
                              const std::function<void(int64_t, int64_t)>& body) {
  if (count <= 0) return;
  const int64_t units = ceil_div(count, grain);
  if (units == 1 || num_threads() == 1) return body(0, count);
  run([&](int member, int members) {
    const int64_t begin = units * member / members * grain;
    const int64_t end = std::min(count, units * (member + 1) / members * grain);
    if (begin < end) body(begin, end);
  });
}

}  // namespace llama4rt
