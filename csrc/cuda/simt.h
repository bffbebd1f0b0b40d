// The only interface of kernels to the machine they run on: thread indices, shared memory, and the words that
// mark device code. Compiled by nvcc it is CUDA; with LLAMA4RT_SIMT_EMULATOR it is ordinary C++ over
// tests/simt_emulator, which runs each thread as a fiber. Instructions are in ptx/.
//
// Kernel files include this and ptx/ headers, and nothing of CUDA. scripts/check_cuda.py holds them to it: no
// asm, no <<<>>>, no __shared__ and no intrinsics outside of simt.h, launch.h and ptx/.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef LLAMA4RT_SIMT_EMULATOR

#include "simt_emulator/executor.h"
#include "simt_emulator/shared_memory.h"

#define __global__
#define __launch_bounds__(...)
#define __grid_constant__
#define LLAMA4RT_DEVICE inline
// Every function that the emulator wants to name in a report takes the line of its caller.
#define LLAMA4RT_SITE ::llama4rt::simt::Site site = ::llama4rt::simt::Site::here()
#define LLAMA4RT_AND_SITE , LLAMA4RT_SITE
#define LLAMA4RT_PASS_SITE site

#else

#define LLAMA4RT_DEVICE __device__ __forceinline__
#define LLAMA4RT_SITE
#define LLAMA4RT_AND_SITE
#define LLAMA4RT_PASS_SITE

#endif

// LLAMA4RT_SHARED(float, sums, 32);  declares `float sums[32]` in shared memory, 16-byte aligned.
#ifdef LLAMA4RT_SIMT_EMULATOR
#define LLAMA4RT_SHARED(type, name, count)                                  \
  static char name##_key;                                                   \
  using name##_array = type[count];                                         \
  auto& name = *static_cast<name##_array*>(::llama4rt::simt::shared_object( \
      &name##_key, sizeof(name##_array), 16, ::llama4rt::simt::Site::here()))
#else
#define LLAMA4RT_SHARED(type, name, count) __shared__ __align__(16) type name[count]
#endif

namespace llama4rt::cuda {

inline constexpr int kWarpSize = 32;

#ifdef LLAMA4RT_SIMT_EMULATOR

inline int thread_x() {
  simt::InRuntime guard;
  return simt::self().id;
}
inline int block_dim_x() {
  simt::InRuntime guard;
  return simt::self().block->launch->threads;
}
inline simt::Dim3 block_index() {
  simt::InRuntime guard;
  return simt::self().block->index;
}
inline simt::Dim3 grid_dim() {
  simt::InRuntime guard;
  return simt::self().block->launch->grid;
}
inline int block_x() { return block_index().x; }
inline int block_y() { return block_index().y; }
inline int block_z() { return block_index().z; }
inline int grid_x() { return grid_dim().x; }
inline int grid_y() { return grid_dim().y; }
inline int grid_z() { return grid_dim().z; }
// The launch's dynamic shared memory, 1024-byte aligned.
inline unsigned char* dynamic_shared() {
  simt::InRuntime guard;
  return static_cast<unsigned char*>(simt::dynamic_shared());
}

#else

LLAMA4RT_DEVICE int thread_x() { return int(threadIdx.x); }
LLAMA4RT_DEVICE int block_dim_x() { return int(blockDim.x); }
LLAMA4RT_DEVICE int block_x() { return int(blockIdx.x); }
LLAMA4RT_DEVICE int block_y() { return int(blockIdx.y); }
LLAMA4RT_DEVICE int block_z() { return int(blockIdx.z); }
LLAMA4RT_DEVICE int grid_x() { return int(gridDim.x); }
LLAMA4RT_DEVICE int grid_y() { return int(gridDim.y); }
LLAMA4RT_DEVICE int grid_z() { return int(gridDim.z); }
LLAMA4RT_DEVICE unsigned char* dynamic_shared() {
  extern __shared__ __align__(1024) unsigned char llama4rt_dynamic_shared[];
  return llama4rt_dynamic_shared;
}

#endif

LLAMA4RT_DEVICE int lane_index() { return thread_x() % kWarpSize; }
LLAMA4RT_DEVICE int warp_index() { return thread_x() / kWarpSize; }

// 16 bytes that move as one: the unit of global loads and of cp.async.
struct alignas(16) U32x4 {
  uint32_t x, y, z, w;
};

}  // namespace llama4rt::cuda
