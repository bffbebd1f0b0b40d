// CudaOps: the products of routed experts.
#include "cuda/cuda_ops.h"
#include "cuda/kernels/experts.h"
#include "cuda/kernels/linear_rows.h"

namespace llama4rt {

void CudaOps::do_experts_gate_up(Tensor a, Tensor h, const Weight& gate_up, const Routing& routing) {
  if (experts_gate_up_rows(a, h, gate_up, routing)) return;
  experts_gate_up_with(a, h, gate_up, routing, {}, {});
}
void CudaOps::do_experts_down_add(Tensor x, Tensor a, const Weight& down, const Routing& routing) {
  if (experts_down_add_rows(x, a, down, routing)) return;
  experts_down_add_with(x, a, down, routing, {}, {});
}

void CudaOps::do_moe_gate_up(Tensor a, Tensor shared_a, Tensor h, const Weight& experts, const Weight& shared,
                             const Routing& routing) {
  if (cuda::many_rows(h.size(0), shared) || !cuda::ExpertsDecode::same_kind(experts, shared)) {
    do_gate_up(shared_a, h, shared);
    return do_experts_gate_up(a, h, experts, routing);
  }
  experts_gate_up_with(a, h, experts, routing, shared_a, shared);
}
void CudaOps::do_moe_down_add(Tensor x, Tensor a, Tensor shared_a, const Weight& experts,
                              const Weight& shared, const Routing& routing) {
  if (cuda::many_rows(x.size(0), shared) || !cuda::ExpertsDecode::same_kind(experts, shared)) {
    do_linear_add(x, shared_a, shared);
    return do_experts_down_add(x, a, experts, routing);
  }
  experts_down_add_with(x, a, experts, routing, shared_a, shared);
}

void CudaOps::experts_gate_up_with(Tensor a, Tensor h, const Weight& gate_up, const Routing& routing,
                                   Tensor shared_a, const Weight& shared) {
  const ExpertsMemory memory = experts_memory("experts_gate_up", gate_up, h.size(0), routing, bool(shared));
  cuda::ExpertsDecode::gate_up(stream(), a, h, gate_up, routing, {shared, shared_a}, memory.scratch,
                               memory.tickets);
}
void CudaOps::experts_down_add_with(Tensor x, Tensor a, const Weight& down, const Routing& routing,
                                    Tensor shared_a, const Weight& shared) {
  const ExpertsMemory memory = experts_memory("experts_down_add", down, x.size(0), routing, bool(shared));
  cuda::ExpertsDecode::down_add(stream(), x, a, down, routing, {shared, shared_a}, memory.scratch,
                                memory.tickets);
}

CudaOps::ExpertsMemory CudaOps::experts_memory(const char* op, const Weight& experts, int64_t tokens,
                                               const Routing& routing, bool shared) {
  LLAMA4RT_CHECK(kInternal, cuda::ExpertsDecode::supports(experts), "cuda: ", op, " of ", experts.num_experts,
                 " ", weight_kind_name(experts.kind),
                 " experts with zero points, this many, or this large, has no kernel");
  const int64_t top_k = routing.expert_ids.size(1);
  return {scratch(cuda::ExpertsDecode::scratch_bytes(experts, tokens, top_k, shared)),
          tickets(cuda::ExpertsDecode::ticket_bytes(experts))};
}

}  // namespace llama4rt
