// Before the first test: kernels are run as PTX from the folder that LLAMA4RT_PTX names. Afterwards the kernels that
// were launched are noted in the file LLAMA4RT_PTX_USED, one a line, for those who ask which never were.
#include "ptx_executor/install.h"

#include <cstdlib>
#include <fstream>

#include "test.h"

namespace llama4rt::test {
namespace {

void note_used() {
  const char* path = std::getenv("LLAMA4RT_PTX_USED");
  if (!path) return;
  std::ofstream out(path, std::ios::app);
  for (const std::string& name : ptx_executor::library().used()) out << name << '\n';
}

const BeforeTests install_the_executor([] {
  const char* folder = std::getenv("LLAMA4RT_PTX");
  LLAMA4RT_CHECK(kInternal, folder, "LLAMA4RT_PTX must name a folder of PTX; make test-ptx makes one");
  ptx_executor::install(folder);
  std::atexit(note_used);
});

}  // namespace
}  // namespace llama4rt::test
