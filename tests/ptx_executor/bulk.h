// What bulk copies and mbarriers need of each other.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "ptx_executor/block.h"
#include "ptx_executor/decoder.h"

namespace llama4rt::ptx_executor {

// Who started a copy, and its count then (order.h).
struct Issue {
  int thread = 0;
  uint32_t count = 0;
};

// [address] of an mbarrier into a and imm.
void build_mbarrier_address(Decoder& d, Instruction& i, size_t k);
// The mbarrier there; a fault of the lane when none was initialised.
Mbarrier& mbarrier_at(Warp& w, int lane, uint32_t address);
// So many bytes of a copy have landed, which may end the phase.
void complete_bytes(Block& b, uint32_t address, int64_t bytes, const Issue& issue);

// A copy into shared memory: the bytes are in flight from begin_load to end_load, which tells the mbarrier.
Issue begin_load(Warp& w, int lane, uint32_t to, int64_t bytes, int alignment, uint32_t barrier);
void end_load(Block& b, uint32_t to, int64_t bytes, uint32_t barrier, const Issue& issue);
// Lands now or later, as the schedule has it.
void start(Block& b, std::string what, std::function<void()> land);

}  // namespace llama4rt::ptx_executor
