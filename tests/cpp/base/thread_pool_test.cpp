#include "base/thread_pool.h"

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include "test.h"

// Sanitizers have a pthread_create of their own.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define LLAMA4RT_TEST_COUNTS_THREADS 0
#else
#define LLAMA4RT_TEST_COUNTS_THREADS 1
#endif

namespace {
[[maybe_unused]] std::atomic<int> threads_left{
    -1};  // so many can still be started; < 0: as many as anybody likes
}

#if LLAMA4RT_TEST_COUNTS_THREADS
// In front of the system's own, for the whole program.
extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*body)(void*),
                              void* argument) noexcept {
  using Create = int(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  static const auto create = reinterpret_cast<Create*>(dlsym(RTLD_NEXT, "pthread_create"));
  if (threads_left >= 0 && threads_left-- <= 0) return threads_left = 0, EAGAIN;
  return create(thread, attributes, body, argument);
}
#endif

namespace llama4rt {

TEST(a_thread_that_cannot_start_is_an_error_and_the_next_task_tries_again) {
  if (!LLAMA4RT_TEST_COUNTS_THREADS) return llama4rt::test::skip("a sanitizer starts the threads here");
  for (const int started_before : {0, 1, 2}) {
    SCOPE("the first ", started_before, " start");
    ThreadPool pool(4);
    std::atomic<int> runs{0};
    const auto count = [&](int, int) { ++runs; };
    for (int attempt = 0; attempt < 2; ++attempt) {
      threads_left = attempt == 0 ? started_before : 0;
      CHECK_THROWS(kInternal, pool.run(count));
      CHECK_THROWS(kInternal, pool.run_shared(count));
      CHECK_EQ(runs.load(), 0);
    }
    threads_left = -1;
    for (int task = 1; task <= 20; ++task) {
      pool.run(count);
      CHECK_EQ(runs.load(), 4 * task);
    }
  }
  threads_left = 1;
  {
    const ThreadPool never_ran(4);
  }
  ThreadPool half(4);
  CHECK_THROWS(kInternal, half.parallel_for(100, 1, [](int64_t, int64_t) {}));
  threads_left = -1;  // and one that has some of its threads ends
}

TEST(every_member_runs_each_task_once) {
  for (int threads : {1, 2, 3, 8}) {
    SCOPE(threads, " threads");
    ThreadPool pool(threads);
    CHECK_EQ(pool.num_threads(), threads);
    std::vector<int> runs(static_cast<size_t>(threads));
    for (int task = 0; task < 100; ++task)
      pool.run([&](int member, int members) {
        if (members == threads) ++runs[size_t(member)];
      });
    for (int n : runs) CHECK_EQ(n, 100);
  }
}

TEST(a_shared_task_is_done_when_it_returns_whoever_came) {
  for (int threads : {1, 2, 4, 9}) {
    SCOPE(threads, " threads");
    ThreadPool pool(threads);
    for (int task = 0; task < 2000; ++task) {
      const int units = 1 + task % 40;
      // On this stack: a member that came after the return would write into a later round's.
      std::vector<std::atomic<int>> done(static_cast<size_t>(units));
      std::vector<std::atomic<int>> calls(static_cast<size_t>(threads));
      std::atomic<int> next{0};
      pool.run_shared([&](int member, int) {
        ++calls[size_t(member)];
        for (int u; (u = next.fetch_add(1)) < units;) ++done[size_t(u)];
      });
      for (const auto& n : done) CHECK_EQ(n.load(), 1);
      CHECK_EQ(calls[0].load(), 1);
      for (const auto& n : calls) CHECK(n.load() <= 1);
      if (task % 100 == 0) {  // both kinds of tasks follow one another
        std::atomic<int> runs{0};
        pool.run([&](int, int) { ++runs; });
        CHECK_EQ(runs.load(), threads);
      }
    }
  }
}

TEST(a_shared_task_does_not_wait_for_members_that_have_not_begun) {
  // More members than CPUs, all kept off by a spinning caller's neighbours: some cannot have begun.
  ThreadPool pool(64);
  int absent = 0;
  for (int task = 0; task < 50; ++task) {
    std::atomic<int> came{0};
    pool.run_shared([&](int, int) { ++came; });
    absent += 64 - came.load();
  }
  CHECK(absent > 0);
}

TEST(an_exception_in_a_shared_task_reaches_the_caller) {
  ThreadPool pool(3);
  std::string caught;
  try {
    pool.run_shared([&](int member, int) {
      if (member == 0) throw std::runtime_error("from the caller");
    });
  } catch (const std::runtime_error& e) {
    caught = e.what();
  }
  CHECK_EQ(caught, std::string("from the caller"));
  std::atomic<int> after{0};
  pool.run([&](int, int) { ++after; });
  CHECK_EQ(after.load(), 3);
}

TEST(parallel_for_covers_the_range_once_in_whole_grains) {
  for (int threads : {1, 2, 5})
    for (int64_t count : {0, 1, 15, 16, 17, 100, 1000})
      for (int64_t grain : {1, 16, 64}) {
        SCOPE(threads, " threads, count ", count, ", grain ", grain);
        ThreadPool pool(threads);
        std::vector<std::atomic<int>> visits(static_cast<size_t>(count));
        std::atomic<bool> aligned{true};
        pool.parallel_for(count, grain, [&](int64_t begin, int64_t end) {
          if (begin % grain != 0 || (end % grain != 0 && end != count)) aligned = false;
          for (int64_t i = begin; i < end; ++i) ++visits[size_t(i)];
        });
        CHECK(aligned);
        for (const auto& n : visits) CHECK_EQ(n.load(), 1);
      }
}

TEST(an_exception_of_any_member_reaches_the_caller_and_the_pool_lives_on) {
  ThreadPool pool(4);
  for (int thrower = 0; thrower < 4; ++thrower) {
    SCOPE("member ", thrower, " throws");
    std::atomic<int> finished{0};
    std::string caught;
    try {
      pool.run([&](int member, int) {
        if (member == thrower) throw std::runtime_error("from " + std::to_string(member));
        ++finished;
      });
    } catch (const std::runtime_error& e) {
      caught = e.what();
    }
    CHECK_EQ(caught, "from " + std::to_string(thrower));
    CHECK_EQ(finished.load(), 3);  // all had returned when run() threw
  }
  std::atomic<int> after{0};
  pool.run([&](int, int) { ++after; });
  CHECK_EQ(after.load(), 4);
}

TEST(sleeping_workers_wake_for_a_late_task) {
  ThreadPool pool(3);
  std::atomic<int> runs{0};
  for (int round = 0; round < 5; ++round) {
    pool.run([&](int, int) { ++runs; });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // far longer than they spin
  }
  CHECK_EQ(runs.load(), 15);
}

TEST(a_pool_that_never_ran_starts_no_thread_and_can_go) {
  ThreadPool pool(64);
  CHECK_EQ(pool.num_threads(), 64);
}

TEST(zero_means_the_cpus_of_this_process) {
  CHECK(available_cpus() >= 1);
  CHECK_EQ(ThreadPool(0).num_threads(), available_cpus());
}

}  // namespace llama4rt
