// share(): independent units of work on the threads of a pool. Which thread computes a unit never influences it.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/thread_pool.h"

namespace llama4rt::calibrate {

// unit(member, i) for every i in [0, count), in any order.
template <class Unit>
void share(ThreadPool& pool, int64_t count, const Unit& unit) {
  std::atomic<int64_t> next{0};
  pool.run_shared([&](int member, int) {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) unit(member, i);
  });
}

}  // namespace llama4rt::calibrate
