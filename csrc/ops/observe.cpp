#include "ops/observe.h"

namespace llama4rt {

void ObservingOps::do_embed(Tensor out, const Weight& table, Tensor ids) {
  observe({"embed", {&table}, {{"out", out}}, {{"ids", ids}}}, [&] { ops_.do_embed(out, table, ids); });
}
void ObservingOps::do_scatter_rows(Tensor x, Tensor rows, Tensor src) {
  observe({"scatter_rows", {}, {{"x", x}}, {{"rows", rows}, {"src", src}}},
          [&] { ops_.do_scatter_rows(x, rows, src); });
}
void ObservingOps::do_gather_rows(Tensor out, Tensor x, Tensor rows) {
  observe({"gather_rows", {}, {{"out", out}}, {{"x", x}, {"rows", rows}}},
          [&] { ops_.do_gather_rows(out, x, rows); });
}
void ObservingOps::do_rmsnorm(Tensor out, Tensor x, Tensor weight, float eps) {
  observe({"rmsnorm", {}, {{"out", out}}, {{"x", x}, {"weight", weight}}},
          [&] { ops_.do_rmsnorm(out, x, weight, eps); });
}
void ObservingOps::do_layernorm(Tensor out, Tensor x, Tensor weight, Tensor bias, float eps) {
  observe({"layernorm", {}, {{"out", out}}, {{"x", x}, {"weight", weight}, {"bias", bias}}},
          [&] { ops_.do_layernorm(out, x, weight, bias, eps); });
}
void ObservingOps::do_add_bias(Tensor x, Tensor bias) {
  observe({"add_bias", {}, {{"x", x}}, {{"bias", bias}}}, [&] { ops_.do_add_bias(x, bias); });
}
void ObservingOps::do_gelu(Tensor x, Tensor bias) {
  observe({"gelu", {}, {{"x", x}}, {{"bias", bias}}}, [&] { ops_.do_gelu(x, bias); });
}
void ObservingOps::do_linear(Tensor out, Tensor x, const Weight& w) {
  observe({"linear", {&w}, {{"out", out}}, {{"x", x}}}, [&] { ops_.do_linear(out, x, w); });
}
void ObservingOps::do_linear_add(Tensor x, Tensor a, const Weight& w) {
  observe({"linear_add", {&w}, {{"x", x}}, {{"a", a}}}, [&] { ops_.do_linear_add(x, a, w); });
}
// Of no weight of the model: whoever compares steps with the checkpoint's asks for no adapter.
void ObservingOps::do_lora_add(Tensor out, Tensor x, std::span<const LoraRows> adapters) {
  observe({"lora_add", {}, {{"out", out}}, {{"x", x}}}, [&] { ops_.do_lora_add(out, x, adapters); });
}
void ObservingOps::do_gate_up(Tensor a, Tensor h, const Weight& gate_up) {
  observe({"gate_up", {&gate_up}, {{"a", a}}, {{"h", h}}}, [&] { ops_.do_gate_up(a, h, gate_up); });
}

void ObservingOps::do_prepare_qkv(Tensor q, Tensor k, Tensor v, const QkvTransform& transform,
                                  const KvLayer& kv, Tensor slot_mapping) {
  observe({"prepare_qkv",
           {},
           {{"q", q}, {"k", k}},
           {{"v", v}, {"rope", transform.rope}, {"q_scale", transform.q_scale}, {"slots", slot_mapping}}},
          [&] { ops_.do_prepare_qkv(q, k, v, transform, kv, slot_mapping); });
}
void ObservingOps::do_paged_attention(Tensor out, Tensor q, const KvLayer& kv, const AttentionBatch& batch,
                                      float scale) {
  observe({"paged_attention", {}, {{"out", out}}, {{"q", q}}},
          [&] { ops_.do_paged_attention(out, q, kv, batch, scale); });
}
void ObservingOps::do_rotate_heads(Tensor x, Tensor rope) {
  observe({"rotate_heads", {}, {{"x", x}}, {{"rope", rope}}}, [&] { ops_.do_rotate_heads(x, rope); });
}
void ObservingOps::do_tile_attention(Tensor out, Tensor q, Tensor k, Tensor v, int64_t rows_per_tile,
                                     int num_heads, float scale) {
  observe({"tile_attention", {}, {{"out", out}}, {{"q", q}, {"k", k}, {"v", v}}},
          [&] { ops_.do_tile_attention(out, q, k, v, rows_per_tile, num_heads, scale); });
}

void ObservingOps::do_route(const Routing& routing, Tensor logits, Tensor h, const Weight& router) {
  observe({"route",
           {&router},
           {{"expert_ids", routing.expert_ids}, {"scores", routing.scores}, {"logits", logits}},
           {{"h", h}}},
          [&] { ops_.do_route(routing, logits, h, router); });
}
void ObservingOps::do_experts_gate_up(Tensor a, Tensor h, const Weight& gate_up, const Routing& routing) {
  observe({"experts_gate_up",
           {&gate_up},
           {{"a", a}},
           {{"h", h}, {"expert_ids", routing.expert_ids}, {"scores", routing.scores}}},
          [&] { ops_.do_experts_gate_up(a, h, gate_up, routing); });
}
void ObservingOps::do_experts_down_add(Tensor x, Tensor a, const Weight& down, const Routing& routing) {
  observe({"experts_down_add", {&down}, {{"x", x}}, {{"a", a}, {"expert_ids", routing.expert_ids}}},
          [&] { ops_.do_experts_down_add(x, a, down, routing); });
}
void ObservingOps::do_moe_gate_up(Tensor a, Tensor shared_a, Tensor h, const Weight& experts,
                                  const Weight& shared, const Routing& routing) {
  observe({"moe_gate_up",
           {&experts, &shared},
           {{"a", a}, {"shared_a", shared_a}},
           {{"h", h}, {"expert_ids", routing.expert_ids}, {"scores", routing.scores}}},
          [&] { ops_.do_moe_gate_up(a, shared_a, h, experts, shared, routing); });
}
void ObservingOps::do_moe_down_add(Tensor x, Tensor a, Tensor shared_a, const Weight& experts,
                                   const Weight& shared, const Routing& routing) {
  observe({"moe_down_add",
           {&experts, &shared},
           {{"x", x}},
           {{"a", a}, {"shared_a", shared_a}, {"expert_ids", routing.expert_ids}}},
          [&] { ops_.do_moe_down_add(x, a, shared_a, experts, shared, routing); });
}

// Tokens, not activations: nobody compares them.
void ObservingOps::do_sample(const SampleBatch& batch, Tensor logits) { ops_.do_sample(batch, logits); }
void ObservingOps::do_all_gather(Tensor x) { ops_.do_all_gather(x); }

}  // namespace llama4rt
