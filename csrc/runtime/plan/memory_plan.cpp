#include "runtime/plan/memory_plan.h"

#include <algorithm>
#include <limits>

#include "base/checked_math.h"
#include "base/error.h"
#include "ops/workspace.h"
#include "runtime/plan/measure_step.h"
#include "runtime/runner/batch_builder.h"
#include "runtime/runner/device_sampler.h"

namespace llama4rt {
namespace {

constexpr int64_t kLogitTileBytes = int64_t(64) << 20;
// A context of CUDA, its kernels and some hundred recorded steps. An estimate: nobody has measured it.
constexpr int64_t kDriverBytes = int64_t(1) << 30;
// More than any cache; a budget when there is no limit.
constexpr int64_t kNoLimit = int64_t(1) << 60;

// Of the cache when `sequences` sequences of `tokens` tokens run at the same time: their blocks, and one more
// local block each, because a chunk is given back only after the next one has begun.
int64_t kv_bytes(const KvCachePlan& shape, int64_t sequences, int64_t tokens) {
  const int64_t P = shape.block_size;
  int64_t bytes = shape.spare_blocks * (shape.global_block_bytes + shape.local_block_bytes);
  bytes += sequences * ceil_div(tokens, P) * shape.global_block_bytes;
  if (shape.attention_chunk > 0)
    bytes += sequences * (ceil_div(std::min(tokens, shape.attention_chunk), P) + 1) * shape.local_block_bytes;
  return bytes;
}

StepShape step_shape(const ModelConfig& config, const DeviceTraits& device, const PlanOptions& options) {
  StepShape shape;
  shape.max_tokens = options.max_batched_tokens;
  shape.max_outputs = options.max_batched_tokens;  // a caller may want the logits of every prompt token
  const int64_t fitting = kLogitTileBytes / (config.vocab_size * int64_t(sizeof(float)));
  shape.logit_rows = std::min<int64_t>(std::max<int64_t>(fitting, 16), shape.max_outputs);
  shape.max_seqs = options.max_num_seqs;
  shape.block_size = options.block_size;
  if (!device.has_own_memory) return shape;
  // A recorded decode step has its padding rows, and all of its logits at once.
  shape.max_seqs = BatchBuilder::padded_sequences(options.max_num_seqs);
  shape.max_tokens = std::max(shape.max_tokens, shape.max_seqs);
  shape.max_outputs = std::max(shape.max_outputs, shape.max_seqs);
  shape.logit_rows = std::max(shape.logit_rows, shape.max_seqs);
  return shape;
}

std::string gib(int64_t bytes) {
  const int64_t hundredths = (bytes * 100 + (int64_t(1) << 29)) >> 30;
  std::string rest = std::to_string(hundredths % 100);
  if (rest.size() == 1) rest.insert(0, 1, '0');
  return std::to_string(hundredths / 100) + "." + rest + " GiB";
}

// Plans for one model, device and set of options. What does not depend on the context is measured once.
class Planner {
 public:
  Planner(const WeightSource& weights, int64_t weight_bytes, const DeviceTraits& device,
          const PlanOptions& options)
      : weights_(weights), config_(weights.config()), device_(device), options_(options) {
    fixed_.step = step_shape(config_, device, options);
    fixed_.max_num_seqs = options.max_num_seqs;
    fixed_.max_batched_tokens = options.max_batched_tokens;
    fixed_.weights = weight_bytes;
    fixed_.adapters = options.adapter_bytes;
    fixed_.has_own_memory = device.has_own_memory;
    fixed_.logits = int64_t(Workspace::bytes_for(DType::kF32, fixed_.step.logit_rows * config_.vocab_size));
    if (config_.vision) {
      fixed_.step.image_tiles = image_tiles_at_once(weights, device);
      const StepMemory tower = measure_vision_step(weights, device, fixed_.step.image_tiles);
      fixed_.vision = tower.workspace;
      fixed_.scratch = tower.scratch;
      fixed_.images = options.image_bytes;
    }
    if (device.has_own_memory) fixed_.driver = kDriverBytes;
  }

  // Everything but the cache.
  MemoryPlan without_cache(int64_t max_model_len) const {
    MemoryPlan plan = fixed_;
    plan.step.max_context = max_model_len;
    const StepMemory text =
        measure_text_step(weights_, device_, plan.step, options_.kv_global, options_.kv_local);
    plan.workspace = text.workspace - plan.logits;
    plan.scratch.values = std::max(plan.scratch.values, text.scratch.values);
    plan.scratch.tickets = std::max(plan.scratch.tickets, text.scratch.tickets);
    if (!device_.has_own_memory) return plan;
    plan.batch = BatchBuilder::device_bytes(config_, plan.step);
    plan.sampling = DeviceSampler::device_bytes(config_.vocab_size, plan.step.logit_rows);
    return plan;
  }

  KvCacheOptions cache_options() const {
    return {.budget_bytes = options_.kv_cache_bytes,
            .block_size = options_.block_size,
            .global_format = options_.kv_global,
            .local_format = options_.kv_local,
            .max_model_len = options_.max_model_len,
            .max_num_seqs = options_.max_num_seqs,
            .spare_blocks = device_.has_own_memory ? BatchBuilder::kSpareBlocks : 0};
  }

  // The most tokens that so many sequences can have at the same time, 0 when not even one.
  int64_t longest(int64_t sequences) const {
    int64_t low = 0, high = config_.max_position_embeddings;
    while (low < high) {
      const int64_t middle = low + (high - low + 1) / 2;
      if (fits(sequences, middle))
        low = middle;
      else
        high = middle - 1;
    }
    return low;
  }

 private:
  // Whether `sequences` sequences of `tokens` tokens fit options.memory at the same time.
  bool fits(int64_t sequences, int64_t tokens) const {
    const int64_t cache = kv_bytes(kv_cache_shape(config_, cache_options()), sequences, tokens);
    const int64_t allowed = options_.kv_cache_bytes > 0 ? options_.kv_cache_bytes : kNoLimit;
    const int64_t memory = options_.memory > 0 ? options_.memory : kNoLimit;
    return cache <= allowed && without_cache(tokens).total() + cache <= memory;
  }

  const WeightSource& weights_;
  const ModelConfig& config_;
  const DeviceTraits& device_;
  const PlanOptions& options_;
  MemoryPlan fixed_;
};

}  // namespace

int64_t MemoryPlan::full_sequences() const {
  int64_t most = max_num_seqs;
  while (most > 1 && kv_bytes(kv, most, kv.max_model_len) > kv.bytes()) --most;
  return most;
}

int64_t longest_context_within(const WeightSource& weights, int64_t weight_bytes, const DeviceTraits& device,
                               const PlanOptions& options) {
  return Planner(weights, weight_bytes, device, options).longest(options.max_num_seqs);
}

MemoryPlan plan_memory(const WeightSource& weights, int64_t weight_bytes, const DeviceTraits& device,
                       const PlanOptions& options) {
  const ModelConfig& config = weights.config();
  const Planner planner(weights, weight_bytes, device, options);
  KvCacheOptions kv = planner.cache_options();
  const KvCachePlan shape = kv_cache_shape(config, kv);
  int64_t longest = options.max_model_len > 0 ? options.max_model_len : config.max_position_embeddings;
  if (options.max_model_len == 0 && options.memory > 0) {
    longest = std::max<int64_t>(planner.longest(1), 1);
    kv.max_model_len = longest;
  }
  MemoryPlan plan = planner.without_cache(longest);
  if (kv.budget_bytes == 0) kv.budget_bytes = kv_bytes(shape, options.max_num_seqs, longest);
  if (options.memory > 0) {
    const int64_t left = options.memory - plan.total();
    const int64_t least = kv_bytes(shape, 1, longest);
    if (least > left) {
      const int64_t possible = planner.longest(1);
      throw Error(ErrorKind::kConfig,
                  error_text("out of memory before loading: ", gib(options.memory),
                             " are there; weights take ", gib(plan.weights),
                             ", everything else but keys and values ", gib(plan.total() - plan.weights),
                             ", and one sequence of ", longest, " tokens ", gib(least),
                             possible > 0 ? error_text("; the longest max_model_len that fits is ", possible)
                                          : std::string("; not even a short context fits"),
                             "; `llama4rt plan` shows the parts"));
    }
    kv.budget_bytes = std::min(kv.budget_bytes, left);
  }
  plan.kv = plan_kv_cache(config, kv);
  return plan;
}

}  // namespace llama4rt
