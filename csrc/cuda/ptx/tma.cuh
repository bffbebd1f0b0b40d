// Bulk copies by the tensor memory accelerator: one thread starts them, an mbarrier tells when the bytes have
// arrived.
// PTX ISA: cp.async.bulk, cp.async.bulk.tensor, fence.proxy.async.  sm_90.
#pragma once

#include "cuda/simt.h"
#include "cuda/tensor_map.h"

#ifdef LLAMA4RT_SIMT_EMULATOR
#include "simt_emulator/async.h"
#include "simt_emulator/checker.h"
#include "simt_emulator/faults.h"
#endif

namespace llama4rt::cuda::ptx {

// `bytes` of global memory, a multiple of 16 and so aligned on both sides.
LLAMA4RT_DEVICE void bulk_load(uint32_t dst, const void* src, int bytes,
                               uint32_t mbarrier LLAMA4RT_AND_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::bulk_load(dst, src, bytes, mbarrier, site);
#elif __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(dst),
      "l"(src), "r"(bytes), "r"(mbarrier)
      : "memory");
#else
  __trap();
#endif
}

// The box whose first element is (row, column); what lies outside the tensor becomes zero and counts too.
LLAMA4RT_DEVICE void tensor_load_2d(uint32_t dst, const TensorMap* map, int row, int column,
                                    uint32_t mbarrier LLAMA4RT_AND_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  const int coordinates[2] = {column, row};
  simt::tensor_load(dst, map, coordinates, 2, mbarrier, site);
#elif __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], "
      "[%4];" ::"r"(dst),
      "l"(map), "r"(column), "r"(row), "r"(mbarrier)
      : "memory");
#else
  __trap();
#endif
}

// The box in shared memory to global memory; what lies outside the tensor is not written. Committed and
// waited for in groups of this thread.
LLAMA4RT_DEVICE void tensor_store_2d(const TensorMap* map, int row, int column,
                                     uint32_t src LLAMA4RT_AND_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  const int coordinates[2] = {column, row};
  simt::tensor_store(map, coordinates, 2, src, site);
#elif __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map),
               "r"(column), "r"(row), "r"(src)
               : "memory");
#else
  __trap();
#endif
}

LLAMA4RT_DEVICE void bulk_commit() {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::bulk_commit();
#elif __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#else
  __trap();
#endif
}

// Until at most kLeft groups of bulk stores of this thread are unfinished.
template <int kLeft>
LLAMA4RT_DEVICE void bulk_wait(LLAMA4RT_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::bulk_wait(kLeft, site);
#elif __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kLeft) : "memory");
#else
  __trap();
#endif
}

// Between this thread's ordinary stores to shared memory and a bulk store or wgmma that reads them.
LLAMA4RT_DEVICE void fence_proxy_async(LLAMA4RT_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::InRuntime guard;
  if (!simt::fault_at(simt::FaultKind::kFence, site)) simt::checker::proxy_fence();
#elif __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#else
  __trap();
#endif
}

}  // namespace llama4rt::cuda::ptx
