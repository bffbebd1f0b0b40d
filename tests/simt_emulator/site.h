// Site: the place in a kernel that asked the emulator for something; it travels as a default argument.
#pragma once

#include <cstdint>
#include <string>

namespace llama4rt::simt {

struct Site {
  const char* file = "";
  int line = 0;
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
  bool operator==(const Site& o) const { return line == o.line && std::string_view(file) == o.file; }
  // "rmsnorm.cuh:36"
  std::string text() const {
    const std::string path = file;
    return path.substr(path.rfind('/') + 1) + ":" + std::to_string(line);
  }
};

}  // namespace llama4rt::simt
