#include "base/checked_math.h"
#include "cuda/kernels/experts.h"
#include "cuda/kernels/linear_decode.h"

namespace llama4rt::cuda {
namespace {

// Shared by both linears of routed experts.
DecodeArgs routed_args(const Weight& experts, const Routing& routing, void* scratch, uint32_t* tickets) {
  return {.routed = decode_matrices(experts),
          .sorted_picks = routing.sorted_picks.ptr<const int32_t>(),
          .offsets = routing.offsets.ptr<const int32_t>(),
          .picks = int(routing.sorted_picks.size(0)),
          .experts = int(experts.num_experts),
          .top_k = int(routing.expert_ids.size(1)),
          .partials = static_cast<float*>(scratch),
          .tickets = tickets};
}

}  // namespace

void ExpertsDecode::gate_up(Stream& stream, Tensor a, Tensor h, const Weight& experts, const Routing& routing,
                            const Shared& shared, void* scratch, uint32_t* tickets) {
  DecodeArgs args = routed_args(experts, routing, scratch, tickets);
  args.finish = Finish::kSwiGlu;
  args.routed_x = h.ptr<const float>();
  args.routed_x_stride = h.stride0;
  args.picks_per_row = args.top_k;
  args.routed_out = a.ptr<float>();
  args.routed_out_stride = a.stride0;
  args.scores = routing.scores.ptr<const float>();
  args.num_f = int(a.size(1));
  if (shared.weight) {
    args.dense = decode_matrices(shared.weight);
    args.dense_x = args.routed_x;
    args.dense_x_stride = args.routed_x_stride;
    args.out = shared.a.ptr<float>();
    args.out_stride = shared.a.stride0;
    args.tokens = int(h.size(0));
  }
  run_decode(stream, args, experts, h.size(0));
}

void ExpertsDecode::down_add(Stream& stream, Tensor x, Tensor a, const Weight& experts,
                             const Routing& routing, const Shared& shared, void* scratch, uint32_t* tickets) {
  DecodeArgs args = routed_args(experts, routing, scratch, tickets);
  args.finish = Finish::kAdd;
  args.routed_x = a.ptr<const float>();
  args.routed_x_stride = a.stride0;
  args.out = x.ptr<float>();
  args.out_stride = x.stride0;
  if (shared.weight) {
    args.dense = decode_matrices(shared.weight);
    args.dense_x = shared.a.ptr<const float>();
    args.dense_x_stride = shared.a.stride0;
    args.tokens = int(x.size(0));
  }
  run_decode(stream, args, experts, x.size(0));
}

}  // namespace llama4rt::cuda
