// The order in which warps, blocks and kernels get their turn, and when asynchronous work lands: the options of the
// emulator (simt::options()), so that one list of schedules serves both executors.
//
//   ascending   one block at a time, its warps in order, each until it waits; a kernel starts when the one before has
//               ended
//   descending  several blocks at a time, the last first; lanes that branched ahead go first; a kernel that may start
//               early does, and goes first
//   random      several blocks, a few instructions each, drawn from a seed
#pragma once

#include <cstdint>

#include "simt_emulator/executor.h"

namespace llama4rt::ptx_executor {

// Begins the sequence of the options' seed: each stream goes the same way, whatever ran before it.
void begin_schedule();
// The next number of it, below n.
uint64_t random_below(uint64_t n);
// How many blocks may be resident at a time.
int resident_blocks();
// How many instructions a warp gets in a turn.
int64_t turn_budget();
// Whether an asynchronous operation takes effect at once, rather than when it must.
bool lands_at_issue();

}  // namespace llama4rt::ptx_executor
