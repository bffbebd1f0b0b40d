// Team: shares units of work among the threads of a pool. Every member starts with a contiguous run of its
// own, so that memory streams stay sequential, and then helps the others, so that a member whose core is busy
// with something else holds nobody up. Who computes a unit never influences its result. Allocates nothing.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

#include "base/thread_pool.h"

namespace llama4rt::cpu {

class Team {
 public:
  explicit Team(int num_threads)
      : pool_(num_threads), runs_(std::make_unique<Run[]>(size_t(pool_.num_threads()))) {}

  int size() const { return pool_.num_threads(); }

  // unit(member, i) for every i in [0, count), after prepare(member) on the same thread.
  template <class Prepare, class Unit>
  void share(int64_t count, const Prepare& prepare, const Unit& unit) {
    if (count <= 0) return;
    const int members = size();
    if (members == 1 || count == 1) {
      prepare(0);
      for (int64_t i = 0; i < count; ++i) unit(0, i);
      return;
    }
    for (int m = 0; m < members; ++m) {
      runs_[size_t(m)].next.store(count * m / members, std::memory_order_relaxed);
      runs_[size_t(m)].end = count * (m + 1) / members;
    }
    const auto task = [&](int member, int) {
      prepare(member);
      for (int i = 0; i < members; ++i) {
        Run& run = runs_[size_t((member + i) % members)];
        for (int64_t u; (u = run.next.fetch_add(1, std::memory_order_relaxed)) < run.end;) unit(member, u);
      }
    };
    pool_.run_shared(std::ref(task));  // a reference fits std::function without an allocation
  }
  template <class Unit>
  void share(int64_t count, const Unit& unit) {
    share(count, [](int) {}, unit);
  }

 private:
  struct alignas(64) Run {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };
  ThreadPool pool_;
  std::unique_ptr<Run[]> runs_;
};

}  // namespace llama4rt::cpu
