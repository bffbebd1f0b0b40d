// CudaMeasuringOps: what the kernels of each op would need on a GPU, from the launchers' own headers. Needs
// neither a GPU nor nvcc. Bounds hold for the rows, keys and sequences of the call or fewer, on any GPU.
#pragma once

#include <memory>

#include "ops/measure.h"

namespace llama4rt {

class CudaMeasuringOps final : public MeasuringOps {
 public:
  using MeasuringOps::MeasuringOps;

 private:
  void do_linear(Tensor out, Tensor x, const Weight& w) override;
  void do_linear_add(Tensor x, Tensor a, const Weight& w) override;
  void do_gate_up(Tensor a, Tensor h, const Weight& gate_up) override;
  void do_paged_attention(Tensor out, Tensor q, const KvLayer& kv, const AttentionBatch& batch,
                          float scale) override;
  void do_tile_attention(Tensor out, Tensor q, Tensor k, Tensor v, int64_t rows_per_tile, int num_heads,
                         float scale) override;
  void do_route(const Routing& routing, Tensor logits, Tensor h, const Weight& router) override;
  void do_experts_gate_up(Tensor a, Tensor h, const Weight& gate_up, const Routing& routing) override;
  void do_experts_down_add(Tensor x, Tensor a, const Weight& down, const Routing& routing) override;
  void do_sample(const SampleBatch& batch, Tensor logits) override;

  // rows of x spread over the matrices of w; y_bytes: of a product that is combined afterwards.
  void note_rows(const Weight& w, int64_t rows, size_t y_bytes);
  void note_linear(const Weight& w, int64_t rows);
  void note_experts(const Weight& w, int64_t tokens, int64_t top_k, size_t y_bytes);
};

std::unique_ptr<MeasuringOps> make_cuda_measuring_ops(const DeviceTraits& traits);

}  // namespace llama4rt
