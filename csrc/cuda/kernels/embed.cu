#include "cuda/kernels/embed.cuh"
#include "cuda/kernels/rows.h"
#include "cuda/launch.h"
#include "cuda/launch_rows.h"

namespace llama4rt::cuda {

void run_embed(Stream& stream, Tensor out, const Weight& table, Tensor ids) {
  const EmbedArgs args{.out = out.ptr<float>(),
                       .table = static_cast<const uint16_t*>(table.data),
                       .ids = ids.ptr<const int32_t>(),
                       .out_stride = out.stride0,
                       .vocabulary = int(table.n),
                       .dim = int(table.k)};
  constexpr int kThreads = 128;  // five blocks share a row of 5120, as a decode step has only one row
  const bool aligned =
      rows_aligned(out) && table.k % 8 == 0 && reinterpret_cast<uintptr_t>(table.data) % 16 == 0;
  launch("embed", aligned ? embed_kernel<kThreads, true> : embed_kernel<kThreads, false>,
         row_pieces(out.size(0), out.size(1), kThreads * kEmbedColumns, kThreads), stream, args);
}

}  // namespace llama4rt::cuda
