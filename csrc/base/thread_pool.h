// ThreadPool: a fixed team of threads that runs one function on every member and waits for all.
// The calling thread is member 0. Workers spin for a short while between tasks (decode issues a task every
// few tens of microseconds) and then sleep on a futex, so that an idle engine costs nothing. It starts no
// thread until the first parallel task, and one pool may be driven by one thread at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace llama4rt {

class ThreadPool {
 public:
  // num_threads counts the caller; 0 means the CPUs this process may use (affinity mask and cgroup quota).
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const;

  // Calls task(member, num_threads) on every member, returns when all have returned. The first exception
  // thrown by any member is rethrown here after all have finished. Throws kInternal, and runs nothing, while a
  // thread cannot be started; the next call tries again.
  void run(const std::function<void(int member, int num_threads)>& task);

  // The same for a task whose members share units of work until none is left: a member that has not begun
  // when the caller's own call returns is not waited for and does not run. On a busy machine that is a thread
  // whose CPU somebody else has, and waiting for it costs milliseconds where the task takes microseconds.
  void run_shared(const std::function<void(int member, int num_threads)>& task);

  // Splits [0, count) into contiguous ranges, one per member, in multiples of `grain`; body(begin, end).
  // The split never influences results: ops choose units of work that own whole output elements.
  void parallel_for(int64_t count, int64_t grain,
                    const std::function<void(int64_t begin, int64_t end)>& body);

 private:
  void begin(const std::function<void(int, int)>& task);
  struct State;
  std::unique_ptr<State> state_;
};

// CPUs available to this process: the affinity mask, limited by a cgroup v1 or v2 CPU quota (rounded up).
int available_cpus();

}  // namespace llama4rt
