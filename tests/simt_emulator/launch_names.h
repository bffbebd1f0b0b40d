// What is launched, by name: for tests of what the host asks for.
#pragma once

#include <string>
#include <vector>

namespace llama4rt::simt {

// While one lives, the names of all launches, run or dropped, in order.
class LaunchNames {
 public:
  LaunchNames();
  ~LaunchNames();
  LaunchNames(const LaunchNames&) = delete;
  LaunchNames& operator=(const LaunchNames&) = delete;
  const std::vector<std::string>& names() const { return names_; }

 private:
  friend void note_launch(const std::string& name);
  std::vector<std::string> names_;
};
void note_launch(const std::string& name);

}  // namespace llama4rt::simt
