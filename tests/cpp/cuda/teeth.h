// Do the tests have teeth? Two ways to break a kernel on purpose, each of which must be caught by a report or
// by a wrong result. A kernel is not accepted without both.
//   check_teeth: every place where the kernel synchronises is broken once (simt_emulator/faults.h).
//   expect_caught: a copy of the kernel with one planted bug (planted_bugs.cmake).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "cuda/simt_test.h"
#include "simt_emulator/faults.h"

namespace llama4rt::test {

// One small run of a kernel: true when its result is right; may throw a report.
using Scenario = std::function<bool()>;

// What catches a break: nothing, a wrong result, or the first line of a report.
inline std::string caught(const Scenario& scenario) {
  for (const simt::Options& o : schedules()) {
    const WithOptions with(o);
    try {
      if (!scenario()) return "wrong result";
    } catch (const Error& e) {
      return std::string(e.what()).substr(0, std::string(e.what()).find('\n'));
    }
  }
  return {};
}

// Breaks every place the scenario meets; `harmless` are breaks that change nothing, with the reason beside
// them in the test.
inline void check_teeth(const std::string& kernel, const Scenario& scenario, size_t fewest_places,
                        const std::vector<std::string>& harmless = {}) {
  if (!kChecked) return skip(kNoChecker);
  simt::take_recorded_places();
  CHECK_EQ(caught(scenario), "");
  const std::vector<simt::Fault> places = simt::take_recorded_places();
  CHECK(places.size() >= fewest_places);
  for (const simt::Fault& place : places) {
    const bool expect_harmless = std::any_of(harmless.begin(), harmless.end(), [&](const std::string& h) {
      return place.text().find(h) != std::string::npos;
    });
    SCOPE(kernel, ": broken ", place.text());
    const simt::BrokenPlace broken(place);
    const std::string how = caught(scenario);
    CHECK(broken.times_met() > 0);
    CHECK_EQ(how.empty(), expect_harmless);
    if (std::getenv("LLAMA4RT_TEST_VERBOSE")) std::printf("  %s: %s\n", place.text().c_str(), how.c_str());
  }
}

// A planted bug, and what must see it.
inline void expect_caught(const char* name, const Scenario& is_right) {
  SCOPE("planted bug ", name);
  const std::string how = caught(is_right);
  CHECK(!how.empty());
  if (std::getenv("LLAMA4RT_TEST_VERBOSE")) std::printf("  %s: %s\n", name, how.c_str());
}

// Each element to a share of itself: a value from the wrong place is seen.
inline bool all_close(const Matrix& found, const Matrix& expected, double relative) {
  for (int64_t i = 0; i < found.rows(); ++i)
    for (int64_t j = 0; j < found.columns(); ++j) {
      const double want = expected.row(i)[j];
      if (!(std::abs(double(found.row(i)[j]) - want) <= relative * std::abs(want))) return false;
    }
  return found.intact();
}

// Magnitudes from 1 to 64: a value from the wrong place is seen.
inline Matrix uneven(Rng& rng, int64_t rows, int64_t columns) {
  Matrix m(rows, columns);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) m.row(i)[j] = rng.normal() * float(1 << rng.below(7));
  return m;
}

}  // namespace llama4rt::test
