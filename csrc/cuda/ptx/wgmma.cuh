// wgmma: matrix products of a warp group (4 warps, 128 threads) with operands in shared memory, asynchronous.
// d: 64 x N fp32, a: 64 x 16 bf16 (descriptor or registers), b: 16 x N bf16 (descriptor, K-major).
// Warp w of the group owns rows 16 w ..; in it d[4 j + 0..1] = (g, 8 j + 2 t..), d[4 j + 2..3] = (g + 8,
// ...). Registers of an operation in flight may not be touched: fence, issue, commit, wait, in that order.
// PTX ISA: wgmma.mma_async, wgmma.fence, wgmma.commit_group, wgmma.wait_group, setmaxnreg.  sm_90a.
#pragma once

#include "cuda/simt.h"
#include "cuda/tensor_map.h"

#ifdef LLAMA4RT_SIMT_EMULATOR
#include "simt_emulator/matrix.h"
#endif

namespace llama4rt::cuda::ptx {

// Whether device code compiled here has wgmma. Kernels that use it are empty elsewhere, and are
// never launched there.
#if defined(LLAMA4RT_SIMT_EMULATOR) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
inline constexpr bool kHasWgmma = true;
#else
inline constexpr bool kHasWgmma = false;
#endif

// The descriptor of a K-major operand tile in shared memory. Swizzled: rows of 128, 64 or 32 bytes, `stride`
// bytes between groups of 8 rows (leading: unused). Not swizzled: 8 x 16-byte cores, `leading` bytes apart
// along k and `stride` along rows.
LLAMA4RT_DEVICE uint64_t wgmma_descriptor(uint32_t address, int leading_bytes, int stride_bytes,
                                          Swizzle swizzle) {
  return uint64_t((address & 0x3ffffu) >> 4) | uint64_t(leading_bytes >> 4) << 16 |
         uint64_t(stride_bytes >> 4) << 32 | uint64_t(int(swizzle)) << 62;
}

// Before the first wgmma, and again whenever registers of one were written.
LLAMA4RT_DEVICE void wgmma_fence() {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::wgmma_fence();
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#else
  __trap();
#endif
}

LLAMA4RT_DEVICE void wgmma_commit(LLAMA4RT_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::wgmma_commit(site);
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
  __trap();
#endif
}

template <int kLeft>
LLAMA4RT_DEVICE void wgmma_wait(LLAMA4RT_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::wgmma_wait(kLeft, site);
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory");
#else
  __trap();
#endif
}

// d = a * b, or d += a * b.  The two forms differ in where a is: descriptor, or the m16k16 fragment of
// matrix.cuh per warp.
LLAMA4RT_DEVICE void wgmma_m64n8k16(float (&d)[4], uint64_t a, uint64_t b,
                                    bool accumulate LLAMA4RT_AND_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::wgmma_m64k16_bf16(d, 8, nullptr, a, b, accumulate, site);
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %6, 0; wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3}, %4, %5, p, 1, 1, 0, 0; } "
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "l"(a), "l"(b), "r"(int(accumulate)));
#else
  __trap();
#endif
}

LLAMA4RT_DEVICE void wgmma_m64n8k16(float (&d)[4], const uint32_t (&a)[4], uint64_t b,
                                    bool accumulate LLAMA4RT_AND_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::wgmma_m64k16_bf16(d, 8, a, 0, b, accumulate, site);
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %9, 0; wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, %8, p, 1, 1, 0; } "
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(accumulate)));
#else
  __trap();
#endif
}

LLAMA4RT_DEVICE void wgmma_m64n64k16(float (&d)[32], uint64_t a, uint64_t b,
                                     bool accumulate LLAMA4RT_AND_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::wgmma_m64k16_bf16(d, 64, nullptr, a, b, accumulate, site);
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %34, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "
      "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, p, 1, 1, 0, 0; } "
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]),
        "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
        "+f"(d[30]), "+f"(d[31])
      : "l"(a), "l"(b), "r"(int(accumulate)));
#else
  __trap();
#endif
}

LLAMA4RT_DEVICE void wgmma_m64n64k16(float (&d)[32], const uint32_t (&a)[4], uint64_t b,
                                     bool accumulate LLAMA4RT_AND_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::wgmma_m64k16_bf16(d, 64, a, 0, b, accumulate, site);
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %37, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "
      "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, {%32, %33, %34, %35}, %36, p, "
      "1, 1, 0; } "
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]),
        "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
        "+f"(d[30]), "+f"(d[31])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(accumulate)));
#else
  __trap();
#endif
}

LLAMA4RT_DEVICE void wgmma_m64n128k16(float (&d)[64], const uint32_t (&a)[4], uint64_t b,
                                      bool accumulate LLAMA4RT_AND_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::wgmma_m64k16_bf16(d, 128, a, 0, b, accumulate, site);
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %69, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "
      "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, "
      "%40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, "
      "%59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, p, 1, 1, 0; } "
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]),
        "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
        "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]),
        "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]),
        "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]),
        "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]),
        "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(accumulate)));
#else
  __trap();
#endif
}

// Four registers of an operand that are computed by here, so that the compiler moves nothing of that between
// wgmma's fence and wait, which would make it serialise them. No instruction.
LLAMA4RT_DEVICE void computed_by_here(uint32_t (&a)[4]) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  (void)a;
#else
  asm volatile("" : "+r"(a[0]), "+r"(a[1]), "+r"(a[2]), "+r"(a[3])::"memory");
#endif
}

// The same of sums: what they are before the first product, the compiler would otherwise write behind the fence.
template <int kCount>
LLAMA4RT_DEVICE void computed_by_here(float (&d)[kCount]) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  (void)d;
#else
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
#endif
}

// Registers of each thread of this warp group from here on, a multiple of 8: those that one group gives back,
// others may take. All warps of the group call it; the kernel has a bound on its blocks
// (__launch_bounds__(threads, 1)).
template <int kRegisters>
LLAMA4RT_DEVICE void fewer_registers() {
#if !defined(LLAMA4RT_SIMT_EMULATOR) && defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}
template <int kRegisters>
LLAMA4RT_DEVICE void more_registers() {
#if !defined(LLAMA4RT_SIMT_EMULATOR) && defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}

}  // namespace llama4rt::cuda::ptx
