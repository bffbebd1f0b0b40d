// CudaOps: the ops on a GPU. Each submits kernels to its device's stream and returns. Which kernel takes an
// op is decided here, by the supports() and the row counts of the launchers' headers; an op without a kernel
// throws an Error that names it, so that nothing silently runs elsewhere.
//
// Members are defined by topic: cuda_rows.cpp, cuda_linear.cpp, cuda_linear_rows.cpp, cuda_experts.cpp,
// cuda_route.cpp, cuda_attention.cpp, cuda_image_attention.cpp, cuda_sampling.cpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/ops.h"

namespace llama4rt {

class CudaDevice;
namespace cuda {
struct RowsProduct;
class Stream;
}  // namespace cuda

class CudaOps final : public Ops {
 public:
  explicit CudaOps(CudaDevice& device);

 private:
  void do_embed(Tensor out, const Weight& table, Tensor ids) override;
  void do_scatter_rows(Tensor x, Tensor rows, Tensor src) override;
  void do_gather_rows(Tensor out, Tensor x, Tensor rows) override;
  void do_rmsnorm(Tensor out, Tensor x, Tensor weight, float eps) override;
  void do_layernorm(Tensor out, Tensor x, Tensor weight, Tensor bias, float eps) override;
  void do_add_bias(Tensor x, Tensor bias) override;
  void do_gelu(Tensor x, Tensor bias) override;
  void do_linear(Tensor out, Tensor x, const Weight& w) override;
  void do_linear_add(Tensor x, Tensor a, const Weight& w) override;
  void do_gate_up(Tensor a, Tensor h, const Weight& gate_up) override;
  void do_prepare_qkv(Tensor q, Tensor k, Tensor v, const QkvTransform& transform, const KvLayer& kv,
                      Tensor slot_mapping) override;
  void do_paged_attention(Tensor out, Tensor q, const KvLayer& kv, const AttentionBatch& batch,
                          float scale) override;
  void do_rotate_heads(Tensor x, Tensor rope) override;
  void do_tile_attention(Tensor out, Tensor q, Tensor k, Tensor v, int64_t rows_per_tile, int num_heads,
                         float scale) override;
  void do_route(const Routing& routing, Tensor logits, Tensor h, const Weight& router) override;
  void do_experts_gate_up(Tensor a, Tensor h, const Weight& gate_up, const Routing& routing) override;
  void do_experts_down_add(Tensor x, Tensor a, const Weight& down, const Routing& routing) override;
  void do_moe_gate_up(Tensor a, Tensor shared_a, Tensor h, const Weight& experts, const Weight& shared,
                      const Routing& routing) override;
  void do_moe_down_add(Tensor x, Tensor a, Tensor shared_a, const Weight& experts, const Weight& shared,
                       const Routing& routing) override;
  void do_sample(const SampleBatch& batch, Tensor logits) override;

  void multiply(const char* op, Tensor out, Tensor x, const Weight& w, Finish finish);
  // Both products of routed experts, with the shared expert in the same launch where it is given.
  void experts_gate_up_with(Tensor a, Tensor h, const Weight& gate_up, const Routing& routing,
                            Tensor shared_a, const Weight& shared);
  void experts_down_add_with(Tensor x, Tensor a, const Weight& down, const Routing& routing, Tensor shared_a,
                             const Weight& shared);
  struct ExpertsMemory {
    void* scratch;
    uint32_t* tickets;
  };
  // Throws when no kernel takes these experts.
  ExpertsMemory experts_memory(const char* op, const Weight& experts, int64_t tokens, const Routing& routing,
                               bool shared);
  // Products of many rows (cuda_linear_rows.cpp); false, and nothing done, when there are too few for that,
  // or no kernel takes this weight. Row i of x is row picks[i] / picks_per_row. With y_bytes the product goes
  // to the start of scratch, where so many bytes are kept, and not to product.out.
  bool multiply_rows(cuda::RowsProduct product, Tensor x, const Weight& w, int64_t picks_per_row = 1,
                     size_t y_bytes = 0);
  bool experts_gate_up_rows(Tensor a, Tensor h, const Weight& gate_up, const Routing& routing);
  bool experts_down_add_rows(Tensor x, Tensor a, const Weight& down, const Routing& routing);

  cuda::Stream& stream();
  void* scratch(size_t bytes);
  uint32_t* tickets(size_t bytes);

  CudaDevice& device_;
};

}  // namespace llama4rt
