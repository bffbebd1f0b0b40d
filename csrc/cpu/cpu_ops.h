// CpuOps: the ops over a team of threads and a table of inner loops chosen for this machine, in files by family:
//   cpu_rows.cpp       rows, prepare_qkv
//   cpu_linear.cpp     linear, linear_add, gate_up: schedules cpu::Linears
//   cpu_lora.cpp       lora_add
//   cpu_experts.cpp    route, experts_gate_up, experts_down_add
//   cpu_attention.cpp  paged_attention
//   cpu_tiles.cpp      rotate_heads, tile_attention
#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/checked_math.h"
#include "cpu/kernels.h"
#include "cpu/scratch.h"
#include "cpu/team.h"
#include "ops/ops.h"

namespace llama4rt {

class CpuOps final : public Ops {
 public:
  // num_threads 0: all CPUs of this process.
  CpuOps(const DeviceTraits& traits, const cpu::Kernels& kernels, int num_threads, Activations activations);

  const cpu::Kernels& kernels() const { return kernels_; }
  Activations activations() const { return activations_; }
  int num_threads() const { return team_.size(); }

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
  void do_moe_gate_up(Tensor a, Tensor shared_a, Tensor h, const Weight& experts, const Weight& shared,
                      const Routing& routing) override;
  void do_moe_down_add(Tensor x, Tensor a, Tensor shared_a, const Weight& experts, const Weight& shared,
                       const Routing& routing) override;

  // body(begin, end) over ranges of rows large enough for a thread to be worth its wakening.
  template <class Body>
  void for_rows(int64_t rows, int64_t row_elements, const Body& body) {
    constexpr int64_t kUnitElements = 4096;
    const int64_t per_unit = std::max<int64_t>(1, kUnitElements / std::max<int64_t>(row_elements, 1));
    team_.share(ceil_div(rows, per_unit),
                [&](int, int64_t i) { body(i * per_unit, std::min(rows, (i + 1) * per_unit)); });
  }

  void linear_one(Tensor out, Tensor x, const Weight& w, Finish finish);
  void collect_linear(Tensor out, Tensor x, const Weight& w, Finish finish);
  // Adds to linears_ one linear op per expert that has tokens.
  void collect_experts(float* out, int64_t out_stride, int64_t out_width, Tensor x, int64_t picks_per_x,
                       const Weight& stack, const Routing& routing, Finish finish);
  // Runs linears_, all of one K, kind and group size, or all bf16.   chained: there are two, of one shape and one row,
  // which add to the same outputs, the first one first
  void run_linears(bool chained = false);
  void plan_linears(bool chained);
  void quantize_linears(const cpu::QuantizedRows& q, int64_t begin, int64_t end);

  // A unit of paged_attention: query tokens [token, token + num_tokens) of a sequence, one KV head, and
  // either all splits of its keys (-1) or one, whose states go to attention_states_ from row `state_row` on.
  struct AttentionUnit {
    int seq = 0;
    int64_t token = 0;
    int num_tokens = 0;
    int64_t kv_head = 0;
    int64_t split = -1;
    int64_t state_row = 0;
  };
  struct AttentionCall;
  void plan_attention(const AttentionCall& call);
  // The scratch of all members that attend_all needs, for so many rows.
  void reserve_attention(int64_t rows, int64_t head_dim);
  // States of all rows of the tiles, all full but the last, over all their keys: [rows, attention_state_floats(D)],
  // the member's own until its next call.
  const float* attend_all(int member, std::span<const cpu::AttentionTile> tiles);
  void run_attention_unit(const AttentionCall& call, int member, const AttentionUnit& unit);

  const cpu::Kernels& kernels_;
  const Activations activations_;
  cpu::Team team_;

  // Scratch, reused from call to call. Vectors keep their capacity.
  struct Member {
    cpu::Scratch kernel, states, values, scales, sums, totals;
    std::vector<cpu::AttentionTile> tiles;
  };
  std::vector<Member> members_;
  std::vector<cpu::Linear> linears_;
  std::vector<cpu::LinearUnit> linear_units_;
  std::vector<AttentionUnit> attention_units_, merges_;
  cpu::Scratch values_, scales_, sums_, totals_, tiles_, attention_states_, pick_outputs_, tile_keys_,
      tile_values_, lora_ranks_;
};

}  // namespace llama4rt
