#include "runtime/plan/memory_limit.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

namespace llama4rt {
namespace {

constexpr int64_t kUnknown = std::numeric_limits<int64_t>::max();

int64_t first_number(const char* path) {
  std::ifstream file(path);
  int64_t value = 0;
  return file >> value && value >= 0 ? value : kUnknown;  // "max" is no number
}

int64_t machine_available() {
  std::ifstream file("/proc/meminfo");
  std::string key, unit;
  int64_t kib = 0;
  while (file >> key >> kib) {
    if (key == "MemAvailable:") return kib * 1024;
    std::getline(file, unit);
  }
  return kUnknown;
}

int64_t cgroup_available(const char* limit_path, const char* usage_path) {
  const int64_t limit = first_number(limit_path), usage = first_number(usage_path);
  return limit == kUnknown || usage == kUnknown ? kUnknown : std::max<int64_t>(limit - usage, 0);
}

}  // namespace

int64_t available_memory() {
  const int64_t bytes = std::min(
      {machine_available(), cgroup_available("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
       cgroup_available("/sys/fs/cgroup/memory/memory.limit_in_bytes",
                        "/sys/fs/cgroup/memory/memory.usage_in_bytes")});
  return bytes == kUnknown ? int64_t(1) << 30 : bytes;
}

}  // namespace llama4rt
