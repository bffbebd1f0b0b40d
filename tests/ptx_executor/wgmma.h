// Matrix products of a warp group in flight, as one of its warps sees them.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "ptx_executor/block.h"
#include "ptx_executor/program.h"

namespace llama4rt::ptx_executor {

// One wgmma.mma_async of a warp.
struct WgmmaOperation {
  const Instruction* instruction = nullptr;
  uint64_t a = 0, b = 0;  // descriptors
  bool accumulate = false;
  bool done = false;
};

struct WgmmaState {
  std::vector<WgmmaOperation> open;
  std::deque<std::vector<WgmmaOperation>> groups;
  std::vector<uint8_t> writes, reads;  // of each unit: operations in flight that do
  // Of each unit: how many fences there had been when something other than wgmma wrote it last.
  std::vector<uint32_t> written_at;
  uint32_t fences = 0;
  uint64_t issued = 0, trace = 0;  // to compare the warps of a group: how many, and a hash of what
};

WgmmaState& wgmma_state(Warp& w);
// What one operation is: N, and where its operands stand in the pool (D, then A's registers).
struct WgmmaShape {
  int n = 0;
  bool a_in_registers = false;
  int scale_a = 1, scale_b = 1;
};
// Computes it now, for the rows of this warp.
void compute(Warp& w, const WgmmaOperation& op, const WgmmaShape& shape);

}  // namespace llama4rt::ptx_executor
