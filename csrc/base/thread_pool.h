// ThreadPool: a fixed team of threads that runs one function on every member and waits for all.
// The calling thread is member 0. Workers spin for a short while between tasks (decode issues a task every
// few tens of microseconds) and then sleep on a futex, so that an idle engine costs nothing. It starts no
// thread until the first parallel task. Only one thread may use a pool at a time.
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

  // Calls job(member, num_threads) on every member, returns when all have returned. The first exception
  // thrown by any member is rethrown here after all have finished.
  void run(const std::function<void(int member, int num_threads)>& job);

  // The same for a task whose members take units of work from a common list until it is empty: a member that
  // has not begun when the caller's own call returns does not run, and the caller does not wait for it. On a
  // busy machine such a thread has no CPU yet; waiting for it would cost milliseconds where the task takes
  // microseconds.
  void run_shared(const std::function<void(int member, int num_threads)>& job);

  // Splits [0, count) into contiguous ranges, one per member, in multiples of `grain`; body(begin, end).
  // The split never influences results: ops choose units of work that own whole output elements.
  void parallel_for(int64_t count, int64_t grain,
                    const std::function<void(int64_t begin, int64_t end)>& body);

 private:
  void begin(const std::function<void(int, int)>& job);
  struct State;
  std::unique_ptr<State> state_;
};

// CPUs available to this process: the affinity mask, limited by a cgroup v1 or v2 CPU quota (rounded up).
int available_cpus();

}  // namespace llama4rt
