#include "simt_emulator/faults.h"

#include <optional>
#include <set>

#include "base/error.h"

namespace llama4rt::simt {
namespace {

std::optional<Fault> broken;
int64_t met = 0;
std::set<Fault> places;
// The place looked up last: kernels ask for the same one a million times.
struct Last {
  FaultKind kind;
  const char* file = nullptr;
  int line = 0, argument = 0;
  bool is_broken = false;
} last;

}  // namespace

std::string Fault::text() const {
  static constexpr const char* kNames[] = {"barrier",       "syncwarp",      "shuffle",
                                           "cp.async wait", "mbarrier wait", "mbarrier arrive",
                                           "wgmma wait",    "fence",         "grid wait"};
  std::string t = std::string(kNames[size_t(kind)]) + " at " + Site{file.c_str(), line}.text();
  if (argument != 0) t += ", argument " + std::to_string(argument);
  return t;
}

bool fault_at(FaultKind kind, Site site, int argument) {
  if (last.file != site.file || last.line != site.line || last.kind != kind || last.argument != argument) {
    const Fault here{kind, site.file, site.line, argument};
    places.insert(here);
    last = {kind, site.file, site.line, argument, broken && *broken == here};
  }
  met += last.is_broken;
  return last.is_broken;
}

BrokenPlace::BrokenPlace(Fault fault) {
  LLAMA4RT_CHECK(kInternal, !broken, "one broken place at a time");
  broken = std::move(fault);
  met = 0;
  last = {};
}
BrokenPlace::~BrokenPlace() {
  broken.reset();
  last = {};
}
int64_t BrokenPlace::times_met() const { return met; }

std::vector<Fault> take_recorded_places() {
  std::vector<Fault> all(places.begin(), places.end());
  places.clear();
  last = {};
  return all;
}

}  // namespace llama4rt::simt
