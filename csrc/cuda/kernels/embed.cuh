// embed: rows of a bf16 table as fp32.
#pragma once

#include "cuda/device/overlap.cuh"
#include "cuda/device/vec.cuh"
#include "cuda/ptx/math.cuh"
#include "cuda/simt.h"

namespace llama4rt::cuda {

struct EmbedArgs {
  float* out;             // [T, dim], out_stride between rows
  const uint16_t* table;  // bf16 [vocabulary, dim], contiguous
  const int32_t* ids;     // [T]
  int64_t out_stride;
  int vocabulary;
  int dim;
};

inline constexpr int kEmbedColumns = 8;  // of one thread: 16 bytes of the table

// Block (t, p) writes part p of row t. An id outside the table gives a row of NaN, which sampling reports:
// the host has checked ids, and no kernel may fault on one.
// kAligned: dim is a multiple of 8, table and out are aligned.
template <int kThreads, bool kAligned>
__global__ void __launch_bounds__(kThreads) embed_kernel(EmbedArgs a) {
  wait_for_kernel_before();
  const int64_t token = block_x();
  const int first = (block_y() * kThreads + thread_x()) * kEmbedColumns;
  if (first >= a.dim) return;
  float* out = a.out + token * a.out_stride;
  const int64_t id = a.ids[token];
  if (id < 0 || id >= a.vocabulary) {
    for (int i = first; i < first + kEmbedColumns && i < a.dim; ++i)
      out[i] = ptx::float_from_bits(0x7fc00000u);
    return;
  }
  const uint16_t* row = a.table + id * a.dim;
  if constexpr (kAligned) {
    const U32x4 words = *reinterpret_cast<const U32x4*>(row + first);
    const auto low = [](uint32_t pair) { return ptx::float_from_bits(pair << 16); };
    const auto high = [](uint32_t pair) { return ptx::float_from_bits(pair & 0xffff0000u); };
    store4<true>(out, first, a.dim, {{low(words.x), high(words.x), low(words.y), high(words.y)}});
    store4<true>(out, first + 4, a.dim, {{low(words.z), high(words.z), low(words.w), high(words.w)}});
  } else {
    for (int i = first; i < first + kEmbedColumns && i < a.dim; ++i)
      out[i] = ptx::float_from_bits(uint32_t(row[i]) << 16);
  }
}

}  // namespace llama4rt::cuda
