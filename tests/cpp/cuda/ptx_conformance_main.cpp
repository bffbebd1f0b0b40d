// Prints the results of every PTX case as JSON: [{"name": ..., "tolerance": ..., "words": [...]}, ...]. Built
// twice, over the emulator and for a GPU; scripts/compare_conformance.py compares the two.
#include <cstdio>
#include <exception>

#include "cuda/ptx_conformance.h"

int main() {
  using llama4rt::test::PtxCase;
  try {
    llama4rt::cuda::Stream stream;
    const char* separator = "[";
    for (const PtxCase& c : llama4rt::test::ptx_cases()) {
      std::printf("%s\n{\"name\": \"%s\", \"tolerance\": %g, \"words\": [", separator, c.name.c_str(),
                  c.tolerance);
      const char* comma = "";
      for (const uint32_t word : c.run(stream)) {
        std::printf("%s%u", comma, word);
        comma = ",";
      }
      std::printf("]}");
      separator = ",";
    }
    std::printf("\n]\n");
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
  return 0;
}
