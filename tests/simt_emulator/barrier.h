// CTA barriers: __syncthreads (barrier 0, all threads that have not exited) and named ones (bar.sync id, n;
// bar.arrive id, n).
#pragma once

#include "simt_emulator/executor.h"

namespace llama4rt::simt {

void sync_block(Site site);
// Number of threads whose predicate is true.
int sync_block_count(bool predicate, Site site);
void sync_named(int barrier, int num_threads, Site site);
void arrive_named(int barrier, int num_threads, Site site);
// After an exit: __syncthreads no longer waits for that thread.
void retest_barrier(Block& b);

}  // namespace llama4rt::simt
