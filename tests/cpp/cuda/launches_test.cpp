// How many kernels a decode step launches, and which: the latency of small launches is what bounds a step of few rows
// (docs/gpu-model.md). The number may fall, never rise.
#include <algorithm>
#include <vector>

#include "cuda/dropped_steps.h"
#include "runtime/plan/measure_step.h"
#include "runtime/runner/batch_builder.h"
#include "simt_emulator/host_runtime.h"
#include "simt_emulator/launch_names.h"
#include "test.h"

namespace llama4rt::test {
namespace {

// A layer of Scout, and what python/llama4rt/gpu_model counts (tests/python/test_gpu_model.py).
const std::vector<std::string> kLayer = {"rmsnorm",          "linear_decode", "prepare_qkv",
                                         "attention_decode", "linear_decode", "rmsnorm",
                                         "route_logits",     "linear_decode", "linear_decode"};

ModelConfig two_layers_of_scout() {
  ModelConfig c;
  c.vocab_size = 202'048;
  c.hidden_size = 5120;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 40;
  c.num_key_value_heads = 8;
  c.head_dim = 128;
  c.intermediate_size = 8192;
  c.intermediate_size_mlp = 16'384;
  c.num_local_experts = 16;
  c.num_experts_per_tok = 1;
  c.rope_layers = {true, false};
  c.chunked_layers = {true, false};
  c.moe_layers = {true, true};
  c.attention_chunk_size = 8192;
  c.attn_temperature_tuning = true;
  c.use_qk_norm = true;
  c.rope_theta = 500'000;
  c.max_position_embeddings = 1 << 20;
  return c;
}

}  // namespace

TEST(a_decode_step_of_scout_launches_no_more_than_it_did) {
  const simt::DroppedLaunches dropped;
  const ModelConfig config = two_layers_of_scout();
  WeightOptions options;
  options.weights = options.lm_head = WeightKind::kInt4;
  options.group_size = 128;
  options.layout = Layout::kCudaTile;
  const ShapeSource shapes(config, options);
  std::vector<std::string> expected = {"embed"};
  for (int layer = 0; layer < 2; ++layer) expected.insert(expected.end(), kLayer.begin(), kLayer.end());
  for (const char* const name : {"gather_rows", "rmsnorm", "linear_decode", "sample_scan", "sample_choose"})
    expected.push_back(name);
  for (const int64_t sequences : {1, 8, 16}) {
    SCOPE(sequences, " sequences");
    StepShape shape;
    shape.max_tokens = shape.max_seqs = shape.max_outputs = shape.logit_rows = sequences;
    shape.block_size = 64;
    shape.max_context = 131'072;
    const StepMemory planned =
        measure_text_step(shapes, device_traits("cuda"), shape, KvKind::kBF16, KvKind::kBF16);
    CudaDevice device(0);
    const Llama4Weights weights = Llama4Weights::load(Addressed(shapes));
    Llama4 model(device, config, weights, shape, size_t(planned.workspace));
    Batch batch = BatchBuilder::largest(config, shape);
    for (Batch::Group* group : {&batch.global, &batch.local}) group->attention.max_query_len = 1;
    const simt::LaunchNames launched;
    submit(model, device, config, batch, KvKind::kBF16, shape.block_size);
    CHECK(launched.names() == expected);
  }
}

}  // namespace llama4rt::test
