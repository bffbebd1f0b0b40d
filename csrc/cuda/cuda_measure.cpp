#include "cuda/cuda_measure.h"

#include <algorithm>

#include "cuda/kernels/attention.h"
#include "cuda/kernels/experts.h"
#include "cuda/kernels/linear_rows.h"
#include "cuda/kernels/route.h"
#include "cuda/kernels/sampling.h"
#include "cuda/kernels/tiles.h"

namespace llama4rt {

using cuda::kMostDecodeRows;

std::unique_ptr<MeasuringOps> make_cuda_measuring_ops(const DeviceTraits& traits) {
  return std::make_unique<CudaMeasuringOps>(traits);
}

void CudaMeasuringOps::note_rows(const Weight& w, int64_t rows, size_t y_bytes) {
  if (!cuda::many_rows(rows, w)) return;
  const cuda::RowsMemory bytes(y_bytes, w, rows, cuda::LinearMedium::most_scratch_bytes(w, rows));
  note({int64_t(bytes.total()), int64_t(cuda::LinearMedium::most_ticket_bytes(w, rows))});
}

void CudaMeasuringOps::note_linear(const Weight& w, int64_t rows) {
  // More rows than this are another kernel's.
  const int64_t decode = cuda::many_rows(rows, w) ? kMostDecodeRows : rows;
  note({int64_t(cuda::LinearDecode::most_scratch_bytes(w, decode)),
        int64_t(cuda::LinearDecode::ticket_bytes(w))});
  note_rows(w, rows, 0);
}

void CudaMeasuringOps::note_experts(const Weight& w, int64_t tokens, int64_t top_k, size_t y_bytes) {
  // Routed alone, linear_decode takes kMostDecodeRows picks per expert; with the shared expert, all picks of
  // kMostDecodeRows tokens.
  const bool many = cuda::LinearMedium::supports(w);
  const int64_t few = many ? std::min(tokens, kMostDecodeRows) : tokens;
  const int64_t picks = many ? std::min(tokens * top_k, kMostDecodeRows * w.num_experts) : tokens * top_k;
  const int64_t places = std::max(few * (top_k + 1), picks);
  note({int64_t(cuda::most_decode_scratch_bytes(w, places)), int64_t(cuda::ExpertsDecode::ticket_bytes(w))});
  note_rows(w, tokens * top_k, y_bytes);
}

void CudaMeasuringOps::do_linear(Tensor, Tensor x, const Weight& w) { note_linear(w, x.size(0)); }
void CudaMeasuringOps::do_linear_add(Tensor, Tensor a, const Weight& w) { note_linear(w, a.size(0)); }
void CudaMeasuringOps::do_gate_up(Tensor, Tensor h, const Weight& gate_up) {
  note_linear(gate_up, h.size(0));
}

void CudaMeasuringOps::do_experts_gate_up(Tensor, Tensor h, const Weight& gate_up, const Routing& routing) {
  note_experts(gate_up, h.size(0), routing.expert_ids.size(1), 0);
}
void CudaMeasuringOps::do_experts_down_add(Tensor x, Tensor, const Weight& down, const Routing& routing) {
  const int64_t top_k = routing.expert_ids.size(1);
  note_experts(down, x.size(0), top_k, top_k == 1 ? 0 : size_t(x.size(0) * top_k * down.n * 4));
}

void CudaMeasuringOps::do_paged_attention(Tensor out, Tensor q, const KvLayer& kv,
                                          const AttentionBatch& batch, float scale) {
  const cuda::AttentionCall call{out, q, kv, batch, scale};
  if (!cuda::mma_can_take(call)) return;
  note({int64_t(cuda::AttentionDecode::most_scratch_bytes(call)),
        int64_t(cuda::AttentionDecode::most_ticket_bytes(call))});
}

void CudaMeasuringOps::do_tile_attention(Tensor out, Tensor q, Tensor k, Tensor v, int64_t rows_per_tile,
                                         int num_heads, float scale) {
  const cuda::TilesCall call{out, q, k, v, rows_per_tile, num_heads, scale};
  note({int64_t(cuda::TileAttention::scratch_bytes(call)), 0});
}

void CudaMeasuringOps::do_route(const Routing& routing, Tensor, Tensor h, const Weight& router) {
  note({int64_t(cuda::Route::scratch_bytes(h.size(0), router.n, routing.expert_ids.size(1))),
        int64_t(cuda::Route::ticket_bytes())});
}

void CudaMeasuringOps::do_sample(const SampleBatch& batch, Tensor logits) {
  note({int64_t(cuda::Sample::scratch_bytes(batch.num_rows, logits.size(1))),
        int64_t(cuda::Sample::ticket_bytes(batch.num_rows))});
}

}  // namespace llama4rt
