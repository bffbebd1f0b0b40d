// Tests in several processes at once (--jobs=N): each takes the next test that none has begun. Most tests use one core.
#pragma once

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <new>
#include <string>
#include <vector>

namespace llama4rt::test {

inline constexpr int kMostJobs = 64;

// What the processes of one run share.
struct Board {
  std::atomic<size_t> next{0};                           // the test that none has begun
  std::array<std::atomic<int>, 3> counts{};              // by Outcome
  std::array<std::atomic<size_t>, kMostJobs> running{};  // by process: the test that it began last

  static Board& shared() {
    void* memory = mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    return *new (memory) Board;
  }
};

// Calls work(job) in `jobs` child processes; status 0 when all of them ended with 0. Otherwise the others are ended too,
// and what became of the first is printed: `name` says which test it was at.
inline int in_processes(int jobs, const std::function<int(int)>& work,
                        const std::function<std::string(int)>& name) {
  std::fflush(stdout);
  std::vector<pid_t> children;
  for (int job = 0; job < jobs; ++job) {
    const pid_t child = fork();
    if (child == 0) {
      std::setvbuf(stdout, nullptr, _IOFBF, 1 << 20);  // a test's lines leave in one piece
      std::exit(work(job));
    }
    children.push_back(child);
  }
  int worst = 0;
  for (size_t left = children.size(); left > 0; --left) {
    int status = 0;
    const pid_t ended = waitpid(-1, &status, 0);
    if (status == 0 || worst != 0) continue;
    worst = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    for (int job = 0; job < jobs; ++job) {
      if (children[job] != ended)
        kill(children[job], SIGKILL);
      else if (WIFSIGNALED(status))
        std::printf("FAIL %s (its process ended with signal %d)\n", name(job).c_str(), WTERMSIG(status));
    }
  }
  return worst;
}

}  // namespace llama4rt::test
