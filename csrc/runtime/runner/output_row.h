// OutputRow: a row of a step whose logits are wanted, and what for.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

#include "runtime/sampling/sampler.h"
#include "runtime/sequences/token_mask.h"

namespace llama4rt {

struct OutputRow {
  size_t chunk = 0;         // index into the step's chunks
  int64_t position = 0;     // inside the chunk
  bool host_reads = false;  // its logits go to the host; otherwise a token is chosen as `sample` says
  SampleRequest sample;
  TokenMask* mask = nullptr;  // what may be chosen; waited for before the row is sampled
};

// A mask takes milliseconds (structured/mask_budget.py): this is for a thread that died, and all rows wait meanwhile.
inline constexpr std::chrono::milliseconds kMaskPatience{5'000};

}  // namespace llama4rt
