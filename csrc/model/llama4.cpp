#include "model/llama4.h"

#include <cmath>

namespace llama4rt {

Llama4::Llama4(Device& device, const ModelConfig& config, const Llama4Weights& weights,
               const StepShape& shape, size_t workspace_bytes)
    : ops_(device.ops()), cfg_(config), w_(weights), ws_(device, workspace_bytes) {
  outputs_ = ws_.take(shape.max_outputs, cfg_.hidden_size);
  logits_ = ws_.take(shape.logit_rows, cfg_.vocab_size);
  if (!device.traits().has_own_memory)
    for (const Llama4Weights::Layer& layer : w_.layers)
      expert_tokens_.emplace_back(layer.moe ? size_t(cfg_.num_local_experts) : 0, 0);
  expert_reads_.resize(expert_tokens_.size(), 0);
}

void Llama4::forward(const Batch& batch, std::span<const KvLayer> kv) {
  const auto scratch = ws_.frame();
  const Tensor x = ws_.take(batch.num_tokens, cfg_.hidden_size);  // [T, H] the residual stream
  ops_.embed(x, w_.embed, batch.token_ids);
  for (const Batch::Image& image : batch.images)
    ops_.scatter_rows(x, image.rows, image.embeddings);  // early fusion
  for (size_t l = 0; l < w_.layers.size(); ++l) {
    attention(x, l, batch, kv[l]);  // x += Attn(RMSNorm(x))
    feed_forward(x, l);             // x += FFN(RMSNorm(x))
  }
  const Tensor last = outputs_.rows(0, batch.num_outputs);  // only rows whose next token matters
  ops_.gather_rows(last, x, batch.output_rows);
  ops_.rmsnorm(last, last, w_.norm, cfg_.rms_norm_eps);
}

Tensor Llama4::logits(int64_t begin, int64_t count) {
  const Tensor out = logits_.rows(0, count);
  ops_.linear(out, outputs_.rows(begin, count), w_.lm_head);
  ops_.all_gather(out);
  return out;
}

void Llama4::attention(Tensor x, size_t l, const Batch& batch, const KvLayer& kv) {
  const auto scratch = ws_.frame();
  const Llama4Weights::Layer& layer = w_.layers[l];
  const Batch::Group& group = cfg_.chunked_layers[l] ? batch.local : batch.global;
  const int64_t q_dim = cfg_.q_dim(), kv_dim = cfg_.kv_dim();
  const Tensor h = ws_.take(batch.num_tokens, cfg_.hidden_size);
  const Tensor qkv = ws_.take(batch.num_tokens, q_dim + 2 * kv_dim);
  ops_.rmsnorm(h, x, layer.attn_norm, cfg_.rms_norm_eps);
  ops_.linear(qkv, h, layer.qkv);
  adapt(qkv, h, l, Adapter::Product::kQkv, batch);
  const Tensor q = qkv.columns(0, q_dim);
  const Tensor k = qkv.columns(q_dim, kv_dim);
  const Tensor v = qkv.columns(q_dim + kv_dim, kv_dim);

  QkvTransform transform;
  if (cfg_.rope_layers[l]) {
    transform.rope = batch.rope;
    transform.qk_norm = cfg_.use_qk_norm;  // after rotation, no weight
    transform.qk_norm_eps = cfg_.rms_norm_eps;
  } else if (cfg_.attn_temperature_tuning) {
    transform.q_scale = batch.temperature;  // sharper attention over long contexts
  }
  ops_.prepare_qkv(q, k, v, transform, kv, group.slot_mapping);

  const Tensor o = ws_.take(batch.num_tokens, q_dim);
  ops_.paged_attention(o, q, kv, group.attention, float(1 / std::sqrt(double(cfg_.head_dim))));
  ops_.all_gather(o);              // of heads
  ops_.linear_add(x, o, layer.o);  // x += o @ Wo
  adapt(x, o, l, Adapter::Product::kO, batch);
  ops_.all_gather(x);
}

void Llama4::adapt(Tensor out, Tensor x, size_t l, Adapter::Product product, const Batch& batch) {
  if (batch.adapted.empty()) return;
  lora_.clear();
  for (const Batch::Adapted& adapted : batch.adapted)
    if (const LoraFactors* const factors = adapted.adapter->factors(l, product))
      lora_.push_back({factors, adapted.rows});
  ops_.lora_add(out, x, lora_);
}

void Llama4::feed_forward(Tensor x, size_t l) {
  const auto scratch = ws_.frame();
  const Llama4Weights::Layer& layer = w_.layers[l];
  const int64_t num_tokens = x.size(0);
  const Tensor h = ws_.take(num_tokens, cfg_.hidden_size);
  ops_.rmsnorm(h, x, layer.ffn_norm, cfg_.rms_norm_eps);
  if (!layer.moe) return mlp(x, h, layer.mlp, cfg_.intermediate_size_mlp);

  const Llama4Weights::Moe& moe = *layer.moe;
  const Routing routing = ops_.route(h, moe.router, cfg_.num_experts_per_tok, ws_);
  count_experts(l, routing);
  const Tensor a = ws_.take(num_tokens * cfg_.num_experts_per_tok, cfg_.intermediate_size);
  const Tensor shared_a = ws_.take(num_tokens, cfg_.intermediate_size);
  // SwiGLU(score * h) by expert, and SwiGLU(h) of the shared expert: every token's, never scaled by the
  // router.
  ops_.moe_gate_up(a, shared_a, h, moe.experts.gate_up, moe.shared.gate_up, routing);
  ops_.all_gather(a);
  ops_.all_gather(shared_a);
  ops_.moe_down_add(x, a, shared_a, moe.experts.down, moe.shared.down,
                    routing);  // x += shared, x += sum of the routed
  ops_.all_gather(x);
}

void Llama4::mlp(Tensor x, Tensor h, const Llama4Weights::Mlp& weights, int64_t width) {
  const auto scratch = ws_.frame();
  const Tensor a = ws_.take(h.size(0), width);
  ops_.gate_up(a, h, weights.gate_up);
  ops_.all_gather(a);
  ops_.linear_add(x, a, weights.down);
  ops_.all_gather(x);
}

void Llama4::count_experts(size_t l, const Routing& routing) {
  if (expert_tokens_.empty()) return;
  const int32_t* const offsets = routing.offsets.ptr<const int32_t>();
  for (size_t e = 0; e < expert_tokens_[l].size(); ++e) {
    expert_tokens_[l][e] += offsets[e + 1] - offsets[e];
    expert_reads_[l] += offsets[e + 1] > offsets[e];
  }
}

}  // namespace llama4rt
