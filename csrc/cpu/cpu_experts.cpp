// Mixture of experts: the router, and linear ops grouped by expert, so that only experts with tokens are
// read, each once.
#include <algorithm>

#include "cpu/cpu_ops.h"
#include "weights/layout.h"

namespace llama4rt {
namespace {

// The top_k largest of a row, best first; among equal logits the lowest expert wins. NaN never wins against a
// number.
void choose_experts(int32_t* experts, const float* logits, int64_t num_experts, int64_t top_k) {
  for (int64_t i = 0; i < top_k; ++i) {
    int32_t best = -1;
    for (int32_t e = 0; e < num_experts; ++e) {
      if (best >= 0 && !(logits[e] > logits[best])) continue;
      if (std::find(experts, experts + i, e) == experts + i) best = e;
    }
    experts[i] = best;
  }
}

// Picks ordered by expert, then by pick.   offsets: [E + 1]
void sort_picks(int32_t* sorted, int32_t* offsets, const int32_t* experts, int64_t num_picks,
                int64_t num_experts) {
  std::fill_n(offsets, num_experts + 1, 0);
  for (int64_t s = 0; s < num_picks; ++s) ++offsets[experts[s] + 1];
  for (int64_t e = 0; e < num_experts; ++e) offsets[e + 1] += offsets[e];
  for (int64_t s = 0; s < num_picks; ++s) sorted[offsets[experts[s]]++] = int32_t(s);
  // Every offset now points at the end of its expert, the start of the next.
  for (int64_t e = num_experts; e > 0; --e) offsets[e] = offsets[e - 1];
  offsets[0] = 0;
}

// Whether linear ops with both can share a plan.
bool alike(const Weight& a, const Weight& b) {
  return a.kind == b.kind && a.k == b.k && a.group_size == b.group_size;
}

}  // namespace

void CpuOps::do_route(const Routing& routing, Tensor logits, Tensor h, const Weight& router) {
  const int64_t num_tokens = h.size(0), top_k = routing.expert_ids.size(1);
  linear_one(logits, h, router, Finish::kStore);
  for_rows(num_tokens, router.n * top_k, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      int32_t* experts = routing.expert_ids.row<int32_t>(t);
      choose_experts(experts, logits.row<const float>(t), router.n, top_k);
      for (int64_t i = 0; i < top_k; ++i)
        routing.scores.row<float>(t)[i] = kernels_.sigmoid(logits.row<const float>(t)[experts[i]]);
    }
  });
  sort_picks(routing.sorted_picks.ptr<int32_t>(), routing.offsets.ptr<int32_t>(),
             routing.expert_ids.ptr<const int32_t>(), num_tokens * top_k, router.n);
}

void CpuOps::collect_experts(float* out, int64_t out_stride, int64_t out_width, Tensor x, int64_t picks_per_x,
                             const Weight& stack, const Routing& routing, Finish finish) {
  const int32_t* offsets = routing.offsets.ptr<const int32_t>();
  for (int64_t e = 0; e < stack.num_experts; ++e) {
    if (offsets[e] == offsets[e + 1]) continue;
    cpu::Linear& linear = linears_.emplace_back();
    linear.weight = expert_view(stack, e);
    linear.finish = finish;
    linear.rows.count = offsets[e + 1] - offsets[e];
    linear.rows.x = x.ptr<const float>();
    linear.rows.x_stride = x.stride0;
    linear.rows.out = out;
    linear.rows.out_stride = out_stride;
    linear.rows.out_width = out_width;
    linear.rows.picks = routing.sorted_picks.ptr<const int32_t>() + offsets[e];
    linear.rows.picks_per_x = picks_per_x;
    if (finish == Finish::kSwiGlu) linear.rows.scores = routing.scores.ptr<const float>();
  }
}

void CpuOps::do_experts_gate_up(Tensor a, Tensor h, const Weight& gate_up, const Routing& routing) {
  linears_.clear();
  collect_experts(a.ptr<float>(), a.stride0, a.size(1), h, routing.expert_ids.size(1), gate_up, routing,
                  Finish::kSwiGlu);
  run_linears();
}

void CpuOps::do_experts_down_add(Tensor x, Tensor a, const Weight& down, const Routing& routing) {
  const int64_t top_k = routing.expert_ids.size(1), num_tokens = x.size(0), n = x.size(1);
  linears_.clear();
  if (top_k == 1) {  // pick t belongs to token t
    collect_experts(x.ptr<float>(), x.stride0, n, a, 1, down, routing, Finish::kAdd);
    return run_linears();
  }
  const int64_t stride = round_up(n, int64_t(16));
  float* y = pick_outputs_.get<float>(num_tokens * top_k * stride);
  collect_experts(y, stride, n, a, 1, down, routing, Finish::kStore);
  run_linears();
  for_rows(num_tokens, n * top_k, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      kernels_.add_rows(x.row<float>(t), y + t * top_k * stride, stride, top_k, n);
  });
}

// The shared expert's rows and the routed ones in one go: no thread waits between them.
void CpuOps::do_moe_gate_up(Tensor a, Tensor shared_a, Tensor h, const Weight& experts, const Weight& shared,
                            const Routing& routing) {
  if (!alike(experts, shared)) {
    do_gate_up(shared_a, h, shared);
    return do_experts_gate_up(a, h, experts, routing);
  }
  linears_.clear();
  collect_linear(shared_a, h, shared, Finish::kSwiGlu);
  collect_experts(a.ptr<float>(), a.stride0, a.size(1), h, routing.expert_ids.size(1), experts, routing,
                  Finish::kSwiGlu);
  run_linears();
}

// One token with one expert: both add to the same outputs, block by block in the order that they have apart.
void CpuOps::do_moe_down_add(Tensor x, Tensor a, Tensor shared_a, const Weight& experts, const Weight& shared,
                             const Routing& routing) {
  if (x.size(0) > 1 || routing.expert_ids.size(1) > 1 || !alike(experts, shared)) {
    do_linear_add(x, shared_a, shared);
    return do_experts_down_add(x, a, experts, routing);
  }
  linears_.clear();
  collect_linear(x, shared_a, shared, Finish::kAdd);
  collect_experts(x.ptr<float>(), x.stride0, x.size(1), a, 1, experts, routing, Finish::kAdd);
  run_linears(true);
}

}  // namespace llama4rt
