// How a kernel overlaps with its neighbours in the stream. Its blocks may take their places while the last
// ones of the kernel before still run (launch.h), so that what a launch costs is hidden.
//
// Rules, which the emulator checks:
// - Until a thread has waited it touches no memory that any kernel writes: weights, nothing else.
// - Every thread waits before it ends. A kernel that is done is then a sign that all before it are.
#pragma once

#include "cuda/ptx/grid.cuh"
#include "cuda/simt.h"

namespace llama4rt::cuda {

// The first statement of a kernel that has nothing to do before. The next kernel may start at once: what it
// does before its own wait takes nothing that this one needs.
LLAMA4RT_DEVICE void wait_for_kernel_before(LLAMA4RT_SITE) {
  ptx::grid_wait(LLAMA4RT_PASS_SITE);
  ptx::grid_launch_dependents();
}

}  // namespace llama4rt::cuda
