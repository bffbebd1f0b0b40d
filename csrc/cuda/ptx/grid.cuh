// Between kernels: programmatic dependent launch. A kernel launched with it may start while the kernel before
// it in the stream still runs; device/overlap.cuh says how kernels live with that.
// PTX ISA: griddepcontrol.  sm_90; below, kernels are never launched so, and both do nothing.
#pragma once

#include "cuda/simt.h"

#ifdef LLAMA4RT_SIMT_EMULATOR
#include "simt_emulator/executor.h"
#endif

namespace llama4rt::cuda::ptx {

// Waits until the kernel before is done and everything it wrote can be seen by this thread.
LLAMA4RT_DEVICE void grid_wait(LLAMA4RT_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::grid_wait(site);
#elif __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// As far as this block is concerned the next kernel may start. It says nothing of memory.
LLAMA4RT_DEVICE void grid_launch_dependents() {
#if !defined(LLAMA4RT_SIMT_EMULATOR) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace llama4rt::cuda::ptx
