// Addresses, atomics and vector accesses.
// PTX ISA: cvta.to.shared, atom.add, ld.shared.v4.
#pragma once

#include "cuda/simt.h"

#ifdef LLAMA4RT_SIMT_EMULATOR
#include <cstring>

#include "simt_emulator/checker.h"
#include "simt_emulator/shared_memory.h"
#endif

namespace llama4rt::cuda::ptx {

// The address of an object in shared memory within the shared window, as copies and ldmatrix want it.
LLAMA4RT_DEVICE uint32_t shared_address(const void* p LLAMA4RT_AND_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  return simt::shared_address(p, site);
#else
  uint32_t out;
  asm("{ .reg .u64 a; cvta.to.shared.u64 a, %1; cvt.u32.u64 %0, a; }" : "=r"(out) : "l"(p));
  return out;
#endif
}

LLAMA4RT_DEVICE U32x4 load_shared_v4(uint32_t address LLAMA4RT_AND_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::InRuntime guard;
  const char* p = simt::shared_pointer(address, 16, site);
  if (address % 16 != 0) simt::fail_at(site, "misaligned ld.shared.v4");
  simt::checker::access(p, 16, simt::checker::Kind::kRead, {nullptr, site});
  U32x4 out;
  std::memcpy(&out, p, sizeof out);
  return out;
#else
  U32x4 out;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(out.x), "=r"(out.y), "=r"(out.z), "=r"(out.w)
               : "r"(address)
               : "memory");
  return out;
#endif
}

// *p += value for global memory, relaxed at device scope; gives the old value. Orders nothing by itself: see
// fence_device.
LLAMA4RT_DEVICE uint32_t atomic_add(uint32_t* p, uint32_t value LLAMA4RT_AND_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::InRuntime guard;
  simt::checker::access(p, 4, simt::checker::Kind::kAtomic, {nullptr, site});
  simt::checker::atomic_orders(p);
  const uint32_t before = *p;
  *p = before + value;
  return before;
#else
  uint32_t out;
  asm volatile("atom.relaxed.gpu.global.add.u32 %0, [%1], %2;" : "=r"(out) : "l"(p), "r"(value) : "memory");
  return out;
#endif
}

}  // namespace llama4rt::cuda::ptx
