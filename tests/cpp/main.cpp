// Runs the registered tests, in order of name.
//   llama4rt_tests [--list] [FILTER...] [-FILTER...]     a test runs when its name contains one of the
//   filters
//                                                        (or there is none) and none of those with a minus
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>

#include "test.h"

namespace llama4rt::test {
namespace {

thread_local std::vector<std::string> scopes;
int failures_of_running_test = 0;
constexpr int kMaxReports = 20;  // per test: one wrong kernel can fail thousands of elements

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

void fail(const char* file, int line, const std::string& message) {
  if (++failures_of_running_test > kMaxReports) return;
  std::printf("  %s:%d: %s\n", file, line, message.c_str());
  for (const std::string& scope : scopes) std::printf("    in %s\n", scope.c_str());
}

Scope::Scope(std::string text) { scopes.push_back(std::move(text)); }
Scope::~Scope() { scopes.pop_back(); }

namespace {

bool run(const TestCase& test) {
  failures_of_running_test = 0;
  const auto start = std::chrono::steady_clock::now();
  try {
    test.body();
  } catch (const std::exception& e) {
    fail(test.name.c_str(), 0, std::string("unexpected exception: ") + e.what());
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (failures_of_running_test > kMaxReports)
    std::printf("  ... %d failed checks in all\n", failures_of_running_test);
  std::printf("%s %s (%.2f s)\n", failures_of_running_test ? "FAIL" : "ok  ", test.name.c_str(), seconds);
  std::fflush(stdout);
  return failures_of_running_test == 0;
}

int run_all(const std::vector<std::string>& wanted, const std::vector<std::string>& unwanted, bool list) {
  std::vector<TestCase> tests = registry();
  std::sort(tests.begin(), tests.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  int passed = 0, failed = 0;
  for (const TestCase& test : tests) {
    const auto named_by = [&](const std::vector<std::string>& filters) {
      return std::any_of(filters.begin(), filters.end(),
                         [&](const std::string& f) { return test.name.find(f) != std::string::npos; });
    };
    if ((!wanted.empty() && !named_by(wanted)) || named_by(unwanted)) continue;
    if (list)
      std::printf("%s\n", test.name.c_str());
    else
      ++(run(test) ? passed : failed);
  }
  if (list) return 0;
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed > 0 || passed == 0 ? 1 : 0;
}

}  // namespace
}  // namespace llama4rt::test

int main(int argc, char** argv) {
  std::vector<std::string> wanted, unwanted;
  bool list = false;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--list")
      list = true;
    else if (argument.starts_with("-"))
      unwanted.push_back(argument.substr(1));
    else
      wanted.push_back(argument);
  }
  return llama4rt::test::run_all(wanted, unwanted, list);
}
