#include "runtime/memory_plan.h"

#include <algorithm>
#include <limits>

#include "base/checked_math.h"
#include "base/error.h"
#include "runtime/batch_builder.h"
#include "runtime/device_sampler.h"
#include "runtime/image_encoder.h"

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
  if (shape.chunk_size > 0)
    bytes += sequences * (ceil_div(std::min(tokens, shape.chunk_size), P) + 1) * shape.local_block_bytes;
  return bytes;
}

StepLimits step_limits(const ModelConfig& config, const DeviceTraits& device, const PlanOptions& options) {
  StepLimits limits;
  limits.max_tokens = options.max_batched_tokens;
  limits.max_outputs = options.max_batched_tokens;  // a caller may want the logits of every prompt token
  const int64_t fitting = kLogitTileBytes / (config.vocab_size * int64_t(sizeof(float)));
  limits.logit_rows = std::min<int64_t>(std::max<int64_t>(fitting, 16), limits.max_outputs);
  if (device.host_memory) return limits;
  // A recorded decode step has its padding rows, and all of its logits at once.
  const int64_t decode = BatchBuilder::padded_sequences(options.max_num_seqs);
  limits.max_tokens = std::max(limits.max_tokens, decode);
  limits.max_outputs = std::max(limits.max_outputs, decode);
  limits.logit_rows = std::max(limits.logit_rows, decode);
  return limits;
}

std::string gib(int64_t bytes) {
  const int64_t hundredths = (bytes * 100 + (int64_t(1) << 29)) >> 30;
  std::string rest = std::to_string(hundredths % 100);
  if (rest.size() == 1) rest.insert(0, 1, '0');
  return std::to_string(hundredths / 100) + "." + rest + " GiB";
}

// Everything but the cache, whose budget is left in `left`.
MemoryPlan without_cache(const ModelConfig& config, int64_t weight_bytes, const DeviceTraits& device,
                         const PlanOptions& options, int64_t max_model_len) {
  MemoryPlan plan;
  plan.step = step_limits(config, device, options);
  plan.max_num_seqs = options.max_num_seqs;
  plan.max_batched_tokens = options.max_batched_tokens;
  plan.weights = weight_bytes;
  plan.logits = int64_t(Workspace::bytes_for(DType::kF32, plan.step.logit_rows * config.vocab_size));
  plan.workspace = int64_t(Llama4::workspace_bytes(config, plan.step)) - plan.logits;
  if (config.vision) {
    plan.vision_tiles = ImageEncoder::tiles_at_once(config);
    plan.vision = int64_t(VisionTower::workspace_bytes(config, plan.vision_tiles));
    plan.images = options.image_bytes;
  }
  if (!device.host_memory) {
    const BatchLimits limits{plan.step.max_tokens, plan.step.max_outputs, options.max_num_seqs, max_model_len,
                             options.block_size};
    plan.batch = BatchBuilder::device_bytes(config, limits);
    plan.sampling = DeviceSampler::device_bytes(config.vocab_size, plan.step.logit_rows);
    const StepShape shape{
        .max_tokens = plan.step.max_tokens,
        .max_outputs = plan.step.logit_rows,
        .max_seqs = BatchBuilder::padded_sequences(options.max_num_seqs),
        .max_context = max_model_len,
        .block_size = options.block_size,
        .vision_rows = config.vision ? plan.vision_tiles * (config.vision->num_patches() + 1) : 0};
    plan.scratch = device.scratch_bytes(config, shape);
    plan.driver = kDriverBytes;
  }
  return plan;
}

// Whether `sequences` sequences of `tokens` tokens fit options.memory at the same time.
bool fits(const ModelConfig& config, int64_t weight_bytes, const DeviceTraits& device,
          const PlanOptions& options, int64_t sequences, int64_t tokens) {
  KvCacheOptions kv{.block_size = options.block_size, .dtype = options.kv_dtype};
  kv.spare_blocks = device.host_memory ? 0 : BatchBuilder::kSpareBlocks;
  const MemoryPlan plan = without_cache(config, weight_bytes, device, options, tokens);
  const int64_t cache = kv_bytes(kv_cache_shape(config, kv), sequences, tokens);
  const int64_t allowed = options.kv_cache_bytes > 0 ? options.kv_cache_bytes : kNoLimit;
  return cache <= allowed && plan.total() + cache <= options.memory;
}

// The most tokens that so many sequences can have at the same time, 0 when not even one.
int64_t longest_of(const ModelConfig& config, int64_t weight_bytes, const DeviceTraits& device,
                   PlanOptions options, int64_t sequences) {
  if (options.memory == 0) options.memory = kNoLimit;
  int64_t low = 0, high = config.max_position_embeddings;
  while (low < high) {
    const int64_t middle = low + (high - low + 1) / 2;
    if (fits(config, weight_bytes, device, options, sequences, middle))
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

}  // namespace

int64_t MemoryPlan::full_sequences() const {
  int64_t most = max_num_seqs;
  while (most > 1 && kv_bytes(kv, most, kv.max_model_len) > kv.bytes()) --most;
  return most;
}

int64_t longest_context(const ModelConfig& config, int64_t weight_bytes, const DeviceTraits& device,
                        const PlanOptions& options) {
  return longest_of(config, weight_bytes, device, options, options.max_num_seqs);
}

MemoryPlan plan_memory(const ModelConfig& config, int64_t weight_bytes, const DeviceTraits& device,
                       const PlanOptions& options) {
  KvCacheOptions kv{.budget_bytes = options.kv_cache_bytes,
                    .block_size = options.block_size,
                    .dtype = options.kv_dtype,
                    .max_model_len = options.max_model_len,
                    .max_num_seqs = options.max_num_seqs};
  kv.spare_blocks = device.host_memory ? 0 : BatchBuilder::kSpareBlocks;
  const KvCachePlan shape = kv_cache_shape(config, kv);
  int64_t longest = options.max_model_len > 0 ? options.max_model_len : config.max_position_embeddings;
  if (options.max_model_len == 0 && options.memory > 0) {
    longest = std::max<int64_t>(longest_of(config, weight_bytes, device, options, 1), 1);
    kv.max_model_len = longest;
  }
  MemoryPlan plan = without_cache(config, weight_bytes, device, options, longest);
  if (kv.budget_bytes == 0) kv.budget_bytes = kv_bytes(shape, options.max_num_seqs, longest);
  if (options.memory > 0) {
    const int64_t left = options.memory - plan.total();
    const int64_t least = kv_bytes(shape, 1, longest);
    if (least > left) {
      const int64_t possible = longest_of(config, weight_bytes, device, options, 1);
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
