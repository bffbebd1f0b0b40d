// How a kernel overlaps with its neighbours in the stream. Its blocks may start while the last blocks of the
// kernel before still run (launch.h), which hides the cost of a launch.
//
// Rules, which the emulator checks:
// - Until a thread has waited it reads weights only: no memory that any kernel writes.
// - Every thread waits before it ends. So when a kernel is done, all kernels before it are done, too.
#pragma once

#include "cuda/ptx/grid.cuh"
#include "cuda/simt.h"

namespace llama4rt::cuda {

// The first statement of a kernel with no work before the wait. The next kernel may start at once: before its
// own wait it uses nothing that this one needs.
LLAMA4RT_DEVICE void wait_for_kernel_before(LLAMA4RT_SITE) {
  ptx::grid_wait(LLAMA4RT_PASS_SITE);
  ptx::grid_launch_dependents();
}

}  // namespace llama4rt::cuda
