#include "cpu/dispatch.h"

#include <cstdlib>

#include "base/error.h"
#include "cpu/tables.h"

namespace llama4rt::cpu {
namespace {

// Slowest first.
std::vector<Table> tables() {
  std::vector<Table> all = {{"scalar", [] { return true; }, scalar::kernels}};
  for (const Table& t : vector_tables()) all.push_back(t);
  return all;
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& n : names) text += (text.empty() ? "" : ", ") + n;
  return text;
}

}  // namespace

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (const Table& t : tables())
    if (t.supported()) names.emplace_back(t.name);
  return names;
}

const Kernels& kernels_by_name(const std::string& isa) {
  for (const Table& t : tables()) {
    if (isa != t.name) continue;
    LLAMA4RT_CHECK(kConfig, t.supported(), "LLAMA4RT_CPU_ISA=", isa,
                   ": this machine does not support it; it runs ", joined(supported_isas()));
    return t.kernels();
  }
  throw Error(ErrorKind::kConfig,
              error_text("LLAMA4RT_CPU_ISA=", isa, " is not a known instruction set; this machine runs ",
                         joined(supported_isas())));
}

const Kernels& select_kernels() {
  if (const char* forced = std::getenv("LLAMA4RT_CPU_ISA"); forced && *forced) return kernels_by_name(forced);
  return kernels_by_name(supported_isas().back());
}

}  // namespace llama4rt::cpu
