// One tiny kernel per function of csrc/cuda/ptx/, whose results show what the function does. The emulator and
// a GPU must give the same words (floats of the approximate ones within a tolerance): that is the only proof
// that our reading of the PTX manual is the hardware's. docs/testing-without-a-gpu.md says which have been
// compared.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cuda/runtime.h"

namespace llama4rt::test {

struct PtxCase {
  std::string name;      // of the function, and how it is used
  double tolerance = 0;  // relative, of words that are floats; 0: equal bits
  std::function<std::vector<uint32_t>(cuda::Stream&)> run;
};
std::vector<PtxCase> ptx_cases();

// What every kernel gets: words that are two small bf16 each, of either sign.
std::vector<uint32_t> ptx_input();

}  // namespace llama4rt::test
