// The runner itself (main.cpp, in_processes.h): a test that hangs ends the run with its name, one that cannot be done is
// counted, and several processes share the tests without missing one or what becomes of it.
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <thread>

#include "in_processes.h"
#include "test.h"

namespace llama4rt::test {
namespace {

struct Ended {
  int status;
  std::string output;
};

// Runs one test in a child; gives its exit status (its outcome, when it comes to its end) and what it printed.
Ended run_in_child(const std::string& name, const std::function<void()>& body, unsigned limit_seconds) {
  std::fflush(stdout);
  int ends[2];
  if (pipe(ends) != 0) return {-1, "no pipe"};
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDOUT_FILENO);
    close(ends[0]);
    _exit(int(run({name, body}, limit_seconds)));
  }
  close(ends[1]);
  Ended ended{-1, {}};
  char buffer[4096];
  pollfd reading{ends[0], POLLIN, 0};
  for (ssize_t n = 1; n > 0;) {  // what does not end by itself is a failure of this test, not its hang
    if (poll(&reading, 1, 30'000) <= 0) kill(child, SIGKILL);
    n = read(ends[0], buffer, sizeof(buffer));
    if (n > 0) ended.output.append(buffer, size_t(n));
  }
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFEXITED(status)) ended.status = WEXITSTATUS(status);
  return ended;
}

bool has(const Ended& ended, const std::string& text) { return ended.output.find(text) != std::string::npos; }

}  // namespace

TEST(a_test_that_hangs_ends_the_run_with_its_name) {
  const auto hang = [] {
    while (true) pause();
  };
  const Ended waits = run_in_child("folder/file.waits_for_ever", hang, 1);
  CHECK_EQ(waits.status, 124);
  CHECK(has(waits, "FAIL folder/file.waits_for_ever (still running after its limit of 1 s)"));
#ifdef __SANITIZE_THREAD__
  return skip("the thread sanitizer starts no threads in a forked child");
#endif
  // The same where another thread is what it waits for.
  const Ended joins = run_in_child("folder/file.joins", [&] { std::thread(hang).join(); }, 1);
  CHECK_EQ(joins.status, 124);
  CHECK(has(joins, "FAIL folder/file.joins"));
}

TEST(outcomes_are_told_apart) {
  const Ended passes = run_in_child("a.passes", [] {}, 10);
  CHECK_EQ(passes.status, int(Outcome::kPassed));
  CHECK(has(passes, "ok   a.passes"));
  const Ended skips = run_in_child("a.skips", [] { skip("no such machine"); }, 10);
  CHECK_EQ(skips.status, int(Outcome::kSkipped));
  CHECK(has(skips, "SKIPPED: no such machine") && has(skips, "SKIP a.skips"));
  const auto fails_too = [] {
    skip("no such machine");
    fail("here", 1, "wrong");
  };
  CHECK_EQ(run_in_child("a.fails_too", fails_too, 10).status, int(Outcome::kFailed));
  CHECK_EQ(run_in_child("a.throws", [] { throw std::runtime_error("x"); }, 10).status, int(Outcome::kFailed));
}

TEST(processes_share_the_tests) {
  Board& board = Board::shared();
  const auto name = [](int job) { return "a.test_of_process_" + std::to_string(job); };
  const auto take = [&](int) {
    for (size_t i; (i = board.next++) < 100;) ++board.counts[0], board.counts[1] += int(i);
    _exit(0);  // not what this process would do at its end
    return 0;
  };
  CHECK_EQ(in_processes(3, take, name), 0);
  CHECK_EQ(board.counts[0].load(), 100);
  CHECK_EQ(board.counts[1].load(), 99 * 100 / 2);  // each of them, once

  const auto outcome = [&](const std::function<int(int)>& work) {
    const auto both = [&] {
      const int status = in_processes(2, work, name);
      std::fflush(stdout);
      _exit(status);
    };
    return run_in_child("both", both, 60);
  };
  const Ended fails = outcome([](int job) -> int {
    if (job == 0) pause();  // is ended with the other
    _exit(7);
  });
  CHECK_EQ(fails.status, 7);
  const Ended crashes = outcome([](int job) -> int { return kill(getpid(), job == 1 ? SIGKILL : SIGSTOP); });
  CHECK_EQ(crashes.status, 128 + SIGKILL);
  CHECK(has(crashes, "FAIL a.test_of_process_1 (its process ended with signal 9)"));
}

}  // namespace llama4rt::test
