// ModelRunner: the device side of a step. It owns everything that lives on the device (weights' views, KV
// cache, model, batch arrays, sampling, the vision tower) and turns chunks of sequences into chosen tokens or
// logits. Which chunks those are, and what becomes of the results, is decided above it; no request is known
// here.
//
// A step is submitted, then collected. On a device that runs asynchronously, a step whose every row is
// sampled on the device is only waited for in collect(), and the next step may be submitted before that: the
// device finds the new tokens' ids where sampling left them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "format/weight_source.h"
#include "model/llama4.h"
#include "model/step_shape.h"
#include "model/weights.h"
#include "ops/device.h"
#include "runtime/runner/batch_builder.h"
#include "runtime/runner/device_sampler.h"
#include "runtime/runner/image_encoder.h"
#include "runtime/runner/kv_cache.h"
#include "runtime/runner/output_row.h"
#include "runtime/sequences/sequence.h"

namespace llama4rt {

// What a runner allocates, once. Bytes, as planned.
struct RunnerMemory {
  KvCachePlan kv;
  StepShape step;
  int64_t workspace = 0;         // activations and logits of a step
  int64_t vision_workspace = 0;  // activations of the tower
  int64_t images = 0;            // encoded pictures
  bool zero_cache = false;       // keys and values that were never computed become numbers
};

// A token that was chosen on the device for one output row.
struct ChosenToken {
  SampledToken sampled;
  std::string error;  // why there is none, where it is not for logits that are not finite
};

// Results of consecutive output rows: chosen tokens, one a row, or logits for the host.
struct StepRows {
  int64_t first = 0;  // of the step's output rows
  int64_t count = 0;
  std::vector<ChosenToken> tokens;  // [count], or empty:
  Tensor logits;  // F32 [count, V] in host memory; may be overwritten, valid until the next call
};

class ModelRunner {
 public:
  // A submitted step.
  struct Step {
    std::vector<Chunk> chunks;
    std::vector<OutputRow> outputs;
    int64_t collected = 0;                       // output rows
    bool has_logits = false;                     // of all rows, on the device
    std::optional<DeviceSampler::Run> sampling;  // of all rows, submitted

    bool is_done() const { return collected == int64_t(outputs.size()); }
  };

  // `source` and `device` outlive the runner.
  ModelRunner(const WeightSource& source, Device& device, const RunnerMemory& memory);

  // Builds the batch and submits the forward pass; samples without waiting where that is possible. Chunks
  // must not cross attention chunks. With `follows` the chunks are one further token each of the step
  // submitted last, whose ids are not known yet: can_follow() must have said so.
  Step submit(std::vector<Chunk> chunks, std::vector<OutputRow> outputs, bool follows = false);
  // The results of the step's next rows, in order; waits for them. For steps that are not done.
  StepRows collect(Step& step);
  // Whether one further token of each of the step's chunks may be submitted before the step is collected.
  bool can_follow(const Step& step) const {
    return step.sampling && step.outputs.size() == step.chunks.size();
  }
  // Waits for a step whose results are not wanted.
  void discard(const Step& step);

  const ModelConfig& config() const { return config_; }
  KvCache& kv_cache() { return kv_; }
  ImageEncoder* images() { return encoder_.get(); }  // null: a text model
  const ImageEncoder* images() const { return encoder_.get(); }
  int num_threads() const { return device_.num_threads(); }
  int64_t workspace_bytes() const;
  // See Llama4.
  const std::vector<std::vector<int64_t>>& expert_tokens() const { return model_.expert_tokens(); }
  const std::vector<int64_t>& expert_reads() const { return model_.expert_reads(); }

 private:
  void sample_async(Step& step, bool follows);
  bool sample_rows(const Step& step, const Tensor& logits, StepRows& rows);
  Tensor on_host(const Tensor& logits);

  const ModelConfig& config_;
  Device& device_;
  const Llama4Weights weights_;
  const int64_t logit_rows_;
  KvCache kv_;
  Llama4 model_;
  BatchBuilder builder_;
  std::unique_ptr<DeviceSampler> sampler_;  // null: rows are sampled on the host
  std::unique_ptr<ImageEncoder> encoder_;   // null: a text model
  std::vector<float> host_logits_;          // rows of a device with memory of its own
};

}  // namespace llama4rt
