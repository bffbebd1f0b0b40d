// The end of a linear kernel, shared by all of them.
#pragma once

#include "cuda/ptx/math.cuh"
#include "cuda/ptx/sync.cuh"
#include "cuda/ptx/ticket.cuh"
#include "cuda/simt.h"

namespace llama4rt::cuda {

// silu(c * gate) * (c * up); c is the router's score, 1 outside of experts.
LLAMA4RT_DEVICE float swiglu(float gate, float up, float c) {
  constexpr float kLog2E = 1.4426950408889634f;
  const float g = c * gate;
  return g / (1.0f + ptx::exp2(-g * kLog2E)) * (c * up);
}

// Called by blocks that share a ticket (zero before and after), each after storing its part of a result: true
// in all threads of the last block to call it, which then sees every part.   flag: shared memory for one int.
LLAMA4RT_DEVICE bool last_to_arrive(uint32_t* ticket, int blocks, int* flag) {
  ptx::sync_threads();
  if (thread_x() == 0) {
    const bool last = ptx::atomic_add_ordered(ticket, 1) == uint32_t(blocks - 1);
    if (last) *ticket = 0;  // for the next run
    *flag = last;
  }
  ptx::sync_threads();
  return *flag != 0;
}

// The same with a flag of its own. Beside dynamic shared memory, which is 1024-byte aligned, that costs 1024
// bytes.
LLAMA4RT_DEVICE bool last_to_arrive(uint32_t* ticket, int blocks) {
  LLAMA4RT_SHARED(int, flag, 1);
  return last_to_arrive(ticket, blocks, &flag[0]);
}

}  // namespace llama4rt::cuda
