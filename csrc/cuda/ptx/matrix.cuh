// Warp-wide matrix products of bf16 with fp32 sums (sm_80 and later). All 32 lanes take part; g = lane / 4,
// t = lane % 4; a register holds two values, low half first.
// PTX ISA: mma.sync.aligned.m16n8k16, ldmatrix.
#pragma once

#include "cuda/simt.h"

#ifdef LLAMA4RT_SIMT_EMULATOR
#include "simt_emulator/matrix.h"
#endif

namespace llama4rt::cuda::ptx {

// d += a * b.  a: 16x16, a0 (g, 2t..), a1 (g+8, 2t..), a2 (g, 2t+8..), a3 (g+8, 2t+8..).
// b: 16x8, b0 (k 2t.., n g), b1 (k 2t+8.., n g).  d: 16x8, d0 d1 (g, 2t..), d2 d3 (g+8, 2t..).
LLAMA4RT_DEVICE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                  uint32_t b1 LLAMA4RT_AND_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::InRuntime guard;
  const uint32_t b[2] = {b0, b1};
  simt::mma_m16n8k16_bf16(d, a, b, d, site);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

// Four 8x8 matrices of 16-bit values; lanes 8m..8m+7 give the row addresses of matrix m. out[m] = row g,
// columns 2t..2t+1 of matrix m.
LLAMA4RT_DEVICE void ldmatrix_x4(uint32_t (&out)[4], uint32_t row_address LLAMA4RT_AND_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::ldmatrix(out, 4, row_address, false, site);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(row_address)
               : "memory");
#endif
}

// The same of the transposed matrices: out[m] = rows 2t..2t+1 of column g.
LLAMA4RT_DEVICE void ldmatrix_x4_transposed(uint32_t (&out)[4], uint32_t row_address LLAMA4RT_AND_SITE) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::ldmatrix(out, 4, row_address, true, site);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(row_address)
               : "memory");
#endif
}

}  // namespace llama4rt::cuda::ptx
