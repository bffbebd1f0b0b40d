#include "model/llama4.h"

#include <algorithm>
#include <cmath>

namespace llama4rt {

Llama4::Llama4(Backend& backend, const ModelConfig& config, const Llama4Weights& weights,
               const StepLimits& limits)
    : be_(backend), cfg_(config), w_(weights), ws_(backend, workspace_bytes(config, limits)) {
  outputs_ = ws_.take(limits.max_outputs, cfg_.hidden_size);
  logits_ = ws_.take(limits.logit_rows, cfg_.vocab_size);
  if (be_.host_memory())
    for (const Llama4Weights::Layer& layer : w_.layers)
      expert_tokens_.emplace_back(layer.moe ? size_t(cfg_.num_local_experts) : 0, 0);
}

void Llama4::forward(const Batch& batch, std::span<const KvLayer> kv) {
  const auto scratch = ws_.frame();
  const Tensor x = ws_.take(batch.num_tokens, cfg_.hidden_size);  // [T, H] the residual stream
  be_.embed(x, w_.embed, batch.token_ids);
  for (const Batch::Image& image : batch.images)
    be_.scatter_rows(x, image.rows, image.embeddings);  // early fusion
  for (size_t l = 0; l < w_.layers.size(); ++l) {
    attention(x, l, batch, kv[l]);  // x += Attn(RMSNorm(x))
    feed_forward(x, l);             // x += FFN(RMSNorm(x))
  }
  const Tensor last = outputs_.rows(0, batch.num_outputs);  // only rows whose next token matters
  be_.gather_rows(last, x, batch.output_rows);
  be_.rmsnorm(last, last, w_.norm, cfg_.rms_norm_eps);
}

Tensor Llama4::logits(int64_t begin, int64_t count) {
  const Tensor out = logits_.rows(0, count);
  be_.linear(out, outputs_.rows(begin, count), w_.lm_head);
  return out;
}

void Llama4::attention(Tensor x, size_t l, const Batch& batch, const KvLayer& kv) {
  const auto scratch = ws_.frame();
  const Llama4Weights::Layer& layer = w_.layers[l];
  const Batch::Group& group = cfg_.chunked_layers[l] ? batch.local : batch.global;
  const int64_t q_dim = cfg_.q_dim(), kv_dim = cfg_.kv_dim();
  const Tensor h = ws_.take(batch.num_tokens, cfg_.hidden_size);
  const Tensor qkv = ws_.take(batch.num_tokens, q_dim + 2 * kv_dim);
  be_.rmsnorm(h, x, layer.attn_norm, cfg_.rms_norm_eps);
  be_.linear(qkv, h, layer.qkv);
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
  be_.prepare_qkv(q, k, v, transform, kv, group.slot_mapping);

  const Tensor o = ws_.take(batch.num_tokens, q_dim);
  be_.paged_attention(o, q, kv, group.attention, float(1 / std::sqrt(double(cfg_.head_dim))));
  be_.linear_add(x, o, layer.o);  // x += o @ Wo
}

void Llama4::feed_forward(Tensor x, size_t l) {
  const auto scratch = ws_.frame();
  const Llama4Weights::Layer& layer = w_.layers[l];
  const int64_t num_tokens = x.size(0);
  const Tensor h = ws_.take(num_tokens, cfg_.hidden_size);
  be_.rmsnorm(h, x, layer.ffn_norm, cfg_.rms_norm_eps);
  if (!layer.moe) return mlp(x, h, layer.mlp, cfg_.intermediate_size_mlp);

  const Llama4Weights::Moe& moe = *layer.moe;
  const Routing routing = be_.route(h, moe.router, cfg_.num_experts_per_tok, ws_);
  count_experts(l, routing);
  const Tensor a = ws_.take(num_tokens * cfg_.num_experts_per_tok, cfg_.intermediate_size);
  const Tensor shared_a = ws_.take(num_tokens, cfg_.intermediate_size);
  // SwiGLU(score * h) by expert, and SwiGLU(h) of the shared expert: every token's, never scaled by the
  // router.
  be_.moe_gate_up(a, shared_a, h, moe.experts.gate_up, moe.shared.gate_up, routing);
  be_.moe_down_add(x, a, shared_a, moe.experts.down, moe.shared.down,
                   routing);  // x += shared, x += sum of the routed
}

void Llama4::mlp(Tensor x, Tensor h, const Llama4Weights::Mlp& weights, int64_t width) {
  const auto scratch = ws_.frame();
  const Tensor a = ws_.take(h.size(0), width);
  be_.gate_up(a, h, weights.gate_up);
  be_.linear_add(x, a, weights.down);
}

void Llama4::count_experts(size_t l, const Routing& routing) {
  if (expert_tokens_.empty()) return;
  const int32_t* const offsets = routing.offsets.ptr<const int32_t>();
  for (size_t e = 0; e < expert_tokens_[l].size(); ++e) expert_tokens_[l][e] += offsets[e + 1] - offsets[e];
}

// Follows the takes above, frame by frame.
size_t Llama4::workspace_bytes(const ModelConfig& c, const StepLimits& limits) {
  const int64_t T = limits.max_tokens, K = c.num_experts_per_tok, E = c.num_local_experts;
  const auto f32 = [](int64_t elements) { return Workspace::bytes_for(DType::kF32, elements); };
  const size_t hidden = f32(T * c.hidden_size);
  const size_t attention = hidden + f32(T * (c.q_dim() + 2 * c.kv_dim())) + f32(T * c.q_dim());
  const bool dense = std::count(c.moe_layers.begin(), c.moe_layers.end(), false) > 0;
  size_t feed_forward = dense ? hidden + f32(T * c.intermediate_size_mlp) : 0;
  if (E > 0) {
    const size_t routing = 3 * f32(T * K) + f32(E + 1);  // ids, scores, sorted slots; offsets
    const size_t routed = f32(T * K * c.intermediate_size) + f32(T * c.intermediate_size);  // a, shared_a
    feed_forward = std::max(feed_forward, hidden + routing + std::max(f32(T * E), routed));
  }
  return f32(limits.max_outputs * c.hidden_size) + f32(limits.logit_rows * c.vocab_size) + hidden +
         std::max(attention, feed_forward);
}

}  // namespace llama4rt
