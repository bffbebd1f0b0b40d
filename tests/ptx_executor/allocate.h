// Places in the register file. PTX names every value anew, thousands of them; those that are never needed at the same time
// share a place, so that a warp's registers stay in the cache of the processor.
#pragma once

#include <vector>

#include "ptx_executor/program.h"

namespace llama4rt::ptx_executor {

// What an instruction does with registers, for the question how long their values are needed.
struct Uses {
  std::vector<Unit> reads, writes;
  std::vector<Unit> kept;  // read and written until a later wait
  bool replaces = true;    // the writes leave nothing of the values before: there is no guard
};

// Fills Program::place and place_units. `uses` is that of each instruction.
void allocate(Program& p, const std::vector<Uses>& uses);

}  // namespace llama4rt::ptx_executor
