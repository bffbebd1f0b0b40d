// MemoryPlan: every byte an engine takes on its device, computed before anything is loaded and without a
// device. The engine allocates what the plan says, once; `llama4rt plan` prints it.
#pragma once

#include <cstdint>
#include <string>

#include "format/weight_source.h"
#include "model/step_shape.h"
#include "ops/device.h"
#include "runtime/runner/kv_cache.h"

namespace llama4rt {

struct PlanOptions {
  int64_t max_model_len = 0;       // 0: as long as the model and the memory allow
  int64_t max_num_seqs = 1;        // sequences that run at the same time
  int64_t max_batched_tokens = 0;  // of one step
  int block_size = 16;
  KvKind kv_global = KvKind::kBF16, kv_local = KvKind::kBF16;  // format of each group of layers
  int64_t kv_cache_bytes = 0;  // 0: what max_num_seqs sequences of max_model_len need, within `memory`
  int64_t image_bytes = 0;     // encoded pictures; of models that see
  int64_t adapter_bytes = 0;   // factors of adapters, resident at the same time
  int64_t memory = 0;          // what the device has for all of it; 0: no limit
};

struct MemoryPlan {
  KvCachePlan kv;
  StepShape step;
  int64_t max_num_seqs = 0;
  int64_t max_batched_tokens = 0;
  bool has_own_memory = false;  // the device

  // Bytes.
  int64_t weights = 0;
  int64_t workspace = 0;  // activations of a step
  int64_t logits = 0;     // allocated with the workspace
  int64_t vision = 0;     // activations of the tower
  int64_t images = 0;     // encoded pictures; on a CPU taken one by one, never more in all
  int64_t adapters = 0;   // factors; taken one by one, never more in all
  int64_t batch = 0;      // ids, positions and block tables of a step
  int64_t sampling = 0;   // parameters, masks and results of rows whose tokens the device chooses
  ScratchBytes scratch;   // what kernels need beside their inputs
  int64_t driver = 0;     // taken by the driver: its context, kernels, recorded steps; an estimate

  int64_t total() const {
    return weights + kv.bytes() + workspace + logits + vision + images + adapters + batch + sampling +
           scratch.total() + driver;
  }
  // Sequences of the full max_model_len that the cache holds at the same time, at most max_num_seqs.
  int64_t full_sequences() const;
};

// weights: their shapes are looked at, their bytes are not. Throws kConfig when it does not fit
// options.memory, naming what takes how much and the longest max_model_len that would fit.
MemoryPlan plan_memory(const WeightSource& weights, int64_t weight_bytes, const DeviceTraits& device,
                       const PlanOptions& options);

// The longest max_model_len with which `options` fit options.memory, for max_num_seqs sequences at the same
// time; 0 when not even short ones do. At most max_position_embeddings.
int64_t longest_context_within(const WeightSource& weights, int64_t weight_bytes, const DeviceTraits& device,
                               const PlanOptions& options);

}  // namespace llama4rt
