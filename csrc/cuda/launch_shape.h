// The shape of one kernel launch, for launchers and for the host runtime; no CUDA in here.
#pragma once

#include <cstddef>

namespace llama4rt::cuda {

struct LaunchShape {
  int grid_x = 1;
  int grid_y = 1;
  int grid_z = 1;
  int threads = 1;            // of a block, along x
  size_t dynamic_shared = 0;  // bytes
  // The kernel has no wait for the kernel before it (device/overlap.cuh), so it may not start early.
  bool alone = false;
};

}  // namespace llama4rt::cuda
