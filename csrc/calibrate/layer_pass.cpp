#include "calibrate/layer_pass.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/checked_math.h"
#include "base/error.h"
#include "model/llama4.h"
#include "model/shape_source.h"
#include "runtime/plan/measure_step.h"
#include "runtime/runner/batch_builder.h"
#include "runtime/runner/kv_cache.h"
#include "runtime/sequences/sequence.h"

namespace llama4rt::calibrate {
namespace {

constexpr int kBlock = 16;  // tokens of a block of the cache

StepShape step_shape(const std::vector<int64_t>& lengths) {
  return {.max_tokens = std::accumulate(lengths.begin(), lengths.end(), int64_t(0)),
          .max_outputs = 1,
          .logit_rows = 1,
          .max_seqs = int64_t(lengths.size()),
          .max_context = *std::max_element(lengths.begin(), lengths.end()),
          .block_size = kBlock};
}

// Blocks for every token, of the one layer.
KvCachePlan cache_plan(const ModelConfig& one, const std::vector<int64_t>& lengths) {
  KvCachePlan plan = kv_cache_shape(one, {.block_size = kBlock});
  int64_t blocks = 0;
  for (const int64_t length : lengths) blocks += ceil_div(length, int64_t(kBlock));
  (one.chunked_layers[0] ? plan.num_local_blocks : plan.num_global_blocks) = int32_t(blocks);
  return plan;
}

// Finds the linears among the ops, and the residual stream behind the layer.
class PassObserver final : public OpsObserver {
 public:
  PassObserver(LayerStore& store, LinearVisitor& visitor, std::vector<float> factors, Tensor after)
      : store_(store), visitor_(visitor), factors_(std::move(factors)), after_(after) {}

  // weights: what the model computes with; views of matrices that a visitor replaces are renewed here.
  void watch(Llama4Weights::Layer& layer) {
    const auto add = [&](const char* name, Weight& weight) {
      weights_["layers.0." + std::string(name)] = &weight;
    };
    add("attn.qkv", layer.qkv);
    add("attn.o", layer.o);
    if (!layer.moe) {
      add("mlp.gate_up", layer.mlp.gate_up);
      add("mlp.down", layer.mlp.down);
      return;
    }
    add("moe.shared.gate_up", layer.moe->shared.gate_up);
    add("moe.shared.down", layer.moe->shared.down);
    add("moe.gate_up", layer.moe->experts.gate_up);
    add("moe.down", layer.moe->experts.down);
  }

  void before(const OpCall& call) override {
    if (std::string_view(call.op) == "gather_rows") keep(input(call, "x"));
    for (const Weight* const weight : call.weights) {
      const auto at = std::find_if(weights_.begin(), weights_.end(),
                                   [&](const auto& known) { return known.second == weight; });
      if (at == weights_.end()) continue;
      visitor_.visit(at->first, inputs(call, *weight));
      *at->second = store_.weight(at->first);
    }
  }
  void after(const OpCall&) override {}

 private:
  static Tensor find(const std::vector<OpOperand>& operands, std::string_view name) {
    for (const OpOperand& operand : operands)
      if (operand.name == name) return operand.tensor;
    return {};
  }
  static Tensor input(const OpCall& call, std::string_view name) { return find(call.inputs, name); }
  static Tensor output(const OpCall& call, std::string_view name) { return find(call.outputs, name); }

  static void divide_by_size(std::vector<float>& factors, Tensor stream) {
    for (int64_t t = 0; t < stream.size(0); ++t) {
      const float* const row = stream.row<const float>(t);
      double squares = 0;
      for (int64_t i = 0; i < stream.size(1); ++i) squares += double(row[i]) * double(row[i]);
      factors[size_t(t)] /= float(std::sqrt(squares / double(stream.size(1)) + 1e-20));
    }
  }

  LinearInputs inputs(const OpCall& call, const Weight& weight) const {
    const Tensor h = input(call, "h"), a = input(call, "a"), shared = input(call, "shared_a");
    const Tensor ids = input(call, "expert_ids");
    std::vector<float> factors = factors_;
    // What is added to the residual stream counts relative to it: the next norm divides by its size.
    if (const Tensor stream = output(call, "x")) divide_by_size(factors, stream);
    if (!ids) {
      const Tensor x = input(call, "x");
      return LinearInputs(h ? h : a ? a : x, factors);
    }
    if (&weight != call.weights[0]) return LinearInputs(shared ? shared : h, factors);  // the shared expert's
    if (h) return LinearInputs(h, factors, ids, input(call, "scores"), weight.num_experts, ids.size(1));
    return LinearInputs(a, factors, ids, {}, weight.num_experts, 1);
  }

  void keep(Tensor x) {
    for (int64_t t = 0; t < x.size(0); ++t)
      std::memcpy(after_.row<float>(t), x.row<const float>(t), size_t(x.size(1)) * sizeof(float));
  }

  LayerStore& store_;
  LinearVisitor& visitor_;
  const std::vector<float> factors_;  // [T] roots of how much each token counts
  Tensor after_;
  std::map<std::string, Weight*> weights_;
};

}  // namespace

PassMemory pass_memory(const ModelConfig& model, int layer, const std::vector<int64_t>& lengths) {
  const ModelConfig one = one_layer(model, layer);
  const StepMemory step =
      measure_text_step(ShapeSource(one, {.weights = WeightKind::kBF16}), device_traits("cpu"),
                        step_shape(lengths), KvKind::kBF16, KvKind::kBF16);
  return {.activations = step.workspace, .cache = cache_plan(one, lengths).bytes()};
}

void run_layer(LayerStore& store, Tensor x, const std::vector<int64_t>& lengths, float first_weight,
               std::unique_ptr<Device> device, LinearVisitor& visitor) {
  const ModelConfig& config = store.config();
  const StepShape shape = step_shape(lengths);
  LLAMA4RT_CHECK(kInternal, x.size(0) == shape.max_tokens && x.size(1) == config.hidden_size,
                 "the residual stream is ", x.describe(), "; expected F32 [", shape.max_tokens, ", ",
                 config.hidden_size, "]");
  std::vector<float> factors(size_t(shape.max_tokens), 1.0f);
  int64_t start = 0;
  for (const int64_t length : lengths) {
    factors[size_t(start)] = std::sqrt(first_weight);
    start += length;
  }
  PassObserver observer(store, visitor, std::move(factors), x);
  ObservingDevice observed(std::move(device), observer);
  Llama4Weights weights = Llama4Weights::load(store);
  observer.watch(weights.layers[0]);

  const KvCachePlan plan = cache_plan(config, lengths);
  KvCache cache(observed, config, plan);
  std::vector<Sequence> sequences(lengths.size());
  std::vector<Chunk> chunks;
  int64_t token = 0;
  int32_t block = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    Sequence& sequence = sequences[i];
    sequence.tokens.assign(size_t(lengths[i]), 0);
    sequence.images = std::make_shared<std::vector<ImageRun>>(1, ImageRun{0, x.rows(token, lengths[i])});
    std::vector<int32_t>& blocks = config.chunked_layers[0] ? sequence.local_blocks : sequence.global_blocks;
    for (int64_t t = 0; t < lengths[i]; t += kBlock) blocks.push_back(block++);
    chunks.push_back({.sequence = &sequence, .begin = 0, .count = int(lengths[i])});
    token += lengths[i];
  }
  BatchBuilder builder(observed, config, plan, shape);
  const OutputRow row;
  const Batch& batch = builder.build(chunks, {&row, 1});
  const StepMemory memory = measure_text_step(store, observed.traits(), shape, KvKind::kBF16, KvKind::kBF16);
  Llama4 model(observed, config, weights, shape, size_t(memory.workspace));
  model.forward(batch, cache.layers());
}

}  // namespace llama4rt::calibrate
