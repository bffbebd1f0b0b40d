// The test harness: TEST(name) { CHECK(...); }. A failed check reports its place and values, and the test
// goes on; an exception ends the test as failed. What cannot be tested here says so: return skip("why"). A test that
// takes longer than its time limit ends the whole run with its name. No fixtures, no death tests, no dependencies.
// main.cpp runs what is registered.
#pragma once

#include <cmath>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"

namespace llama4rt::test {

struct TestCase {
  std::string name;  // "folder/file.test"
  std::function<void()> body;
};
std::vector<TestCase>& registry();

// Registers at static initialisation; `file` becomes the prefix of the name.
struct Registrar {
  Registrar(const char* file, const char* name, std::function<void()> body);
};

// Registers what has to be done once before the first test; when it throws, none runs.
struct BeforeTests {
  explicit BeforeTests(std::function<void()> body);
};

// Records a failure of the running test.
void fail(const char* file, int line, const std::string& message);

// Notes that a part of the running test, or all of it, cannot be done here. The test goes on (mostly it returns), and
// counts as skipped unless it fails.
void skip(const std::string& why);

enum class Outcome { kPassed, kFailed, kSkipped };
// Runs one test and prints its line. Past the limit it prints the test's name and ends the process with status 124.
Outcome run(const TestCase& test, unsigned limit_seconds);

// Context printed with failures while it lives: SCOPE("tokens ", t, ", dim ", dim).
class Scope {
 public:
  explicit Scope(std::string text);
  ~Scope();
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;
};

template <class T>
std::string show(const T& value) {
  std::ostringstream out;
  if constexpr (requires { out << value; }) {
    out.precision(9);
    out << value;
  } else {
    out << "(a value of " << sizeof(T) << " bytes)";
  }
  return out.str();
}

template <class A, class B>
void check_equal(const char* file, int line, const char* text, const A& a, const B& b) {
  if (!(a == b)) fail(file, line, text + (": " + show(a)) + " != " + show(b));
}

// |a - b| <= tolerance; a NaN on either side fails.
inline void check_close(const char* file, int line, const char* text, double a, double b, double tolerance) {
  if (!(std::abs(a - b) <= tolerance))
    fail(file, line,
         text + (": " + show(a)) + " and " + show(b) + " differ by " + show(std::abs(a - b)) + " > " +
             show(tolerance));
}

template <class F>
void check_throws(const char* file, int line, const char* text, ErrorKind kind, const F& f) {
  try {
    f();
  } catch (const Error& e) {
    if (e.kind() != kind)
      fail(file, line, std::string(text) + ": threw an Error of another kind: " + e.what());
    return;
  } catch (const std::exception& e) {
    return fail(file, line, std::string(text) + ": threw something else: " + e.what());
  }
  fail(file, line, std::string(text) + ": threw nothing");
}

}  // namespace llama4rt::test

#define LLAMA4RT_TEST_JOIN2(a, b) a##b
#define LLAMA4RT_TEST_JOIN(a, b) LLAMA4RT_TEST_JOIN2(a, b)

#define TEST(name)                                                                         \
  static void test_##name();                                                               \
  static const ::llama4rt::test::Registrar registrar_##name(__FILE__, #name, test_##name); \
  static void test_##name()

#define SCOPE(...) \
  const ::llama4rt::test::Scope LLAMA4RT_TEST_JOIN(scope_, __LINE__)(::llama4rt::error_text(__VA_ARGS__))

#define CHECK(condition)                                                      \
  do {                                                                        \
    if (!(condition)) ::llama4rt::test::fail(__FILE__, __LINE__, #condition); \
  } while (false)

#define CHECK_EQ(a, b) ::llama4rt::test::check_equal(__FILE__, __LINE__, #a " == " #b, a, b)

#define CHECK_CLOSE(a, b, tolerance) \
  ::llama4rt::test::check_close(__FILE__, __LINE__, #a " ~ " #b, double(a), double(b), double(tolerance))

// CHECK_THROWS(kConfig, parse("x")): the expression throws llama4rt::Error of that kind.
#define CHECK_THROWS(kind, ...)                                                                 \
  ::llama4rt::test::check_throws(__FILE__, __LINE__, #__VA_ARGS__, ::llama4rt::ErrorKind::kind, \
                                 [&] { static_cast<void>(__VA_ARGS__); })
