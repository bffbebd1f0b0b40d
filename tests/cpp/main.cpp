// Runs the registered tests, in order of name.
//   llama4rt_tests [--list] [--limit=SECONDS] [--jobs=N] [FILTER...] [-FILTER...]
// A test runs when its name contains one of the filters (or there is none) and none of those with a minus. The limit
// holds for each test; 0: none, for a debugger. With --jobs as many processes share the tests.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>

#include "in_processes.h"
#include "test.h"

namespace llama4rt::test {
namespace {

thread_local std::vector<std::string> scopes;
int failures_of_running_test = 0;
std::vector<std::string> skips_of_running_test;
constexpr int kMaxReports = 20;  // per test: one wrong kernel can fail thousands of elements
// The slowest takes about a minute here; with sanitizers, or on an emulated processor, ten times that.
constexpr unsigned kLimitSeconds = 1200;
constexpr int kTimedOut = 124;  // as timeout(1) says it
char timeout_message[512];

// In whichever thread the signal arrives; on a stack of its own, since the emulator's are small.
void on_alarm(int) {
  if (write(STDOUT_FILENO, timeout_message, std::strlen(timeout_message)) < 0) _exit(kTimedOut + 1);
  _exit(kTimedOut);
}

void handle_alarms() {
  static char stack[64 << 10];
  stack_t alternative{};
  alternative.ss_sp = stack;
  alternative.ss_size = sizeof(stack);
  sigaltstack(&alternative, nullptr);
  struct sigaction action{};
  action.sa_handler = on_alarm;
  action.sa_flags = SA_ONSTACK;
  sigaction(SIGALRM, &action, nullptr);
}

}  // namespace

std::vector<TestCase>& registry() {
  static std::vector<TestCase> tests;
  return tests;
}

Registrar::Registrar(const char* file, const char* name, std::function<void()> body) {
  std::string path = file;
  if (const size_t at = path.rfind("tests/cpp/"); at != std::string::npos) path = path.substr(at + 10);
  for (const char* suffix : {".cpp", "_test"})
    if (path.ends_with(suffix)) path.resize(path.size() - std::strlen(suffix));
  registry().push_back({path + "." + name, std::move(body)});
}

namespace {
std::vector<std::function<void()>>& preparations() {
  static std::vector<std::function<void()>> all;
  return all;
}
}  // namespace

BeforeTests::BeforeTests(std::function<void()> body) { preparations().push_back(std::move(body)); }

void fail(const char* file, int line, const std::string& message) {
  if (++failures_of_running_test > kMaxReports) return;
  std::printf("  %s:%d: %s\n", file, line, message.c_str());
  for (const std::string& scope : scopes) std::printf("    in %s\n", scope.c_str());
}

Scope::Scope(std::string text) { scopes.push_back(std::move(text)); }
Scope::~Scope() { scopes.pop_back(); }

void skip(const std::string& why) {
  auto& skips = skips_of_running_test;
  if (std::find(skips.begin(), skips.end(), why) == skips.end()) skips.push_back(why);
}

Outcome run(const TestCase& test, unsigned limit_seconds) {
  failures_of_running_test = 0;
  skips_of_running_test.clear();
  std::snprintf(timeout_message, sizeof(timeout_message), "FAIL %s (still running after its limit of %u s)\n",
                test.name.c_str(), limit_seconds);
  handle_alarms();
  alarm(limit_seconds);
  const auto start = std::chrono::steady_clock::now();
  try {
    test.body();
  } catch (const std::exception& e) {
    fail(test.name.c_str(), 0, std::string("unexpected exception: ") + e.what());
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  alarm(0);
  if (failures_of_running_test > kMaxReports)
    std::printf("  ... %d failed checks in all\n", failures_of_running_test);
  for (const std::string& why : skips_of_running_test) std::printf("  SKIPPED: %s\n", why.c_str());
  Outcome outcome = skips_of_running_test.empty() ? Outcome::kPassed : Outcome::kSkipped;
  if (failures_of_running_test > 0) outcome = Outcome::kFailed;
  constexpr const char* kWords[] = {"ok  ", "FAIL", "SKIP"};
  std::printf("%s %s (%.2f s)\n", kWords[int(outcome)], test.name.c_str(), seconds);
  std::fflush(stdout);
  return outcome;
}

namespace {

struct Options {
  std::vector<std::string> wanted, unwanted;  // parts of names
  bool list = false;
  unsigned limit_seconds = kLimitSeconds;
  int jobs = 1;
};

std::vector<TestCase> chosen_tests(const Options& options) {
  std::vector<TestCase> tests;
  for (const TestCase& test : registry()) {
    const auto named_by = [&](const std::vector<std::string>& filters) {
      return std::any_of(filters.begin(), filters.end(),
                         [&](const std::string& f) { return test.name.find(f) != std::string::npos; });
    };
    if ((options.wanted.empty() || named_by(options.wanted)) && !named_by(options.unwanted))
      tests.push_back(test);
  }
  std::sort(tests.begin(), tests.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return tests;
}

// Until no test is left; 1 when what has to be done before the first one fails.
int work(const std::vector<TestCase>& tests, unsigned limit_seconds, Board& board, int job) {
  try {
    for (const auto& prepare : preparations()) prepare();
  } catch (const std::exception& e) {
    std::printf("FAIL before the first test: %s\n", e.what());
    return 1;
  }
  for (size_t i; (i = board.next++) < tests.size();) {
    board.running[job] = i;
    ++board.counts[int(run(tests[i], limit_seconds))];
  }
  return 0;
}

int run_all(const Options& options) {
  const std::vector<TestCase> tests = chosen_tests(options);
  if (options.list) {
    for (const TestCase& test : tests) std::printf("%s\n", test.name.c_str());
    return 0;
  }
  Board& board = Board::shared();
  const auto in_job = [&](int job) { return work(tests, options.limit_seconds, board, job); };
  const int status = options.jobs == 1 ? in_job(0) : in_processes(options.jobs, in_job, [&](int job) {
    return tests[board.running[job]].name;
  });
  if (status != 0) return status;
  const int passed = board.counts[0], failed = board.counts[1], skipped = board.counts[2];
  std::printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
  return failed > 0 || passed + skipped == 0 ? 1 : 0;
}

}  // namespace
}  // namespace llama4rt::test

int main(int argc, char** argv) {
  using namespace llama4rt::test;
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--list")
      options.list = true;
    else if (argument.starts_with("--limit="))
      options.limit_seconds = unsigned(std::atoi(argument.c_str() + 8));
    else if (argument.starts_with("--jobs="))
      options.jobs = std::clamp(std::atoi(argument.c_str() + 7), 1, kMostJobs);
    else if (argument.starts_with("-"))
      options.unwanted.push_back(argument.substr(1));
    else
      options.wanted.push_back(argument);
  }
  return run_all(options);
}
