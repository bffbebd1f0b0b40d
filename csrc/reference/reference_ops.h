// The reference: every op as plain fp32 loops, slow on purpose. It is the definition the others are tested
// against, so it rounds nowhere but where ops.h says so: weights are dequantised and then multiplied,
// activations stay fp32, every sum runs in ascending order. One thread.
#pragma once

#include <memory>
#include <string>

#include "ops/host_device.h"
#include "ops/ops.h"

namespace llama4rt {

class ReferenceOps : public Ops {
 public:
  using Ops::Ops;

 protected:
  void do_embed(Tensor out, const Weight& table, Tensor ids) override;
  void do_scatter_rows(Tensor x, Tensor rows, Tensor src) override;
  void do_gather_rows(Tensor out, Tensor x, Tensor rows) override;
  void do_rmsnorm(Tensor out, Tensor x, Tensor weight, float eps) override;
  void do_layernorm(Tensor out, Tensor x, Tensor weight, Tensor bias, float eps) override;
  void do_add_bias(Tensor x, Tensor bias) override;
  void do_gelu(Tensor x, Tensor bias) override;
  void do_linear(Tensor out, Tensor x, const Weight& w) override;
  void do_linear_add(Tensor x, Tensor a, const Weight& w) override;
  void do_lora_add(Tensor out, Tensor x, std::span<const LoraRows> adapters) override;
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
  void do_sample(const SampleBatch& batch, Tensor logits) override;  // reference_sample.cpp
};

class ReferenceDevice final : public HostDevice {
 public:
  ReferenceDevice();

  Ops& ops() override { return ops_; }
  std::string name() const override { return "reference"; }
  std::string describe() const override { return "reference, plain loops on 1 thread"; }

 private:
  ReferenceOps ops_;
};

}  // namespace llama4rt
