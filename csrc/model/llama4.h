// Llama4: the text decoder, written once over Ops. It knows neither requests nor scheduling: a Batch
// comes in, logits of the rows it names come out. docs/model.md lists where Llama 4 differs from what one
// expects.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "format/model_config.h"
#include "model/batch.h"
#include "model/step_shape.h"
#include "model/weights.h"
#include "ops/device.h"
#include "ops/ops.h"
#include "ops/workspace.h"

namespace llama4rt {

class Llama4 {
 public:
  // Keeps references to the first three. workspace_bytes: what the largest step takes, as measured
  // (runtime/plan/measure_step.h).
  Llama4(Device& device, const ModelConfig& config, const Llama4Weights& weights, const StepShape& shape,
         size_t workspace_bytes);

  // Runs every layer, stores keys and values of the batch in `kv` ([L]) and keeps the final states of
  // batch.output_rows for logits().
  void forward(const Batch& batch, std::span<const KvLayer> kv);

  // Logits of output rows [begin, begin + count) of the latest forward, count <= logit_rows: F32 [count, V],
  // valid until the next call. The caller may overwrite them.
  Tensor logits(int64_t begin, int64_t count);
  // Where the latest logits() put its first `count` rows.
  Tensor latest_logits(int64_t count) const { return logits_.rows(0, count); }

  // [L][E] tokens that each expert has had since the start; a dense layer's list is empty. Without layers
  // where the device keeps its routing to itself: to look there would make every step wait.
  const std::vector<std::vector<int64_t>>& expert_tokens() const { return expert_tokens_; }
  // [L] how often a step sent a token to an expert: experts read, since the start. Likewise.
  const std::vector<int64_t>& expert_reads() const { return expert_reads_; }

  const Workspace& workspace() const { return ws_; }

 private:
  void attention(Tensor x, size_t layer, const Batch& batch, const KvLayer& kv);
  // Adds what the batch's adapters change in a product out = x W^T.
  void adapt(Tensor out, Tensor x, size_t layer, Adapter::Product product, const Batch& batch);
  void feed_forward(Tensor x, size_t layer);
  void mlp(Tensor x, Tensor h, const Llama4Weights::Mlp& weights, int64_t width);
  void count_experts(size_t layer, const Routing& routing);

  Ops& ops_;
  const ModelConfig& cfg_;
  const Llama4Weights& w_;
  Workspace ws_;
  Tensor outputs_;              // F32 [max_outputs, H]
  Tensor logits_;               // F32 [logit_rows, V]
  std::vector<LoraRows> lora_;  // of the op at work
  std::vector<std::vector<int64_t>> expert_tokens_;
  std::vector<int64_t> expert_reads_;
};

}  // namespace llama4rt
