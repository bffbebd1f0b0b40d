// A toy Llama 4 with pictures, end to end through the scheduler: the CUDA kernels, from an engine file for
// CUDA, give the greedy tokens that the CPU gives from a file of the same weights. Runs emulated, and
// on a GPU.
//
// CUDA rounds the inputs of products to bf16 and the CPU to integers, so logits differ in the third digit;
// the model's seed is one whose winners stay clear of the runners-up by more than that, which is checked too.
#include "runtime/engine/engine.h"

#include <algorithm>
#include <memory>
#include <random>
#include <string>

#include "cuda/cuda_device.h"
#include "cuda/cuda_system.h"
#include "cuda/products.h"
#include "cuda/simt_test.h"
#include "cuda/tiny_vision.h"
#ifdef LLAMA4RT_SIMT_EMULATOR
#include "simt_emulator/device_memory.h"
#endif

namespace llama4rt::test {
namespace {

constexpr uint32_t kSeed = 34;
constexpr float kMargin = 0.12f;    // of log probability, between the best token and the next
constexpr float kDistance = 0.05f;  // of log probabilities from those of the reference; 0.026 found

// The checker watches these kernels in their own tests; here it would only take time.
#ifdef LLAMA4RT_SIMT_EMULATOR
struct Unchecked : WithOptions {
  Unchecked() : WithOptions({.check = false}) {}
};
#else
struct Unchecked {};
#endif

// What the device has given so far; of a real one nobody asks.
struct Taken {
#ifdef LLAMA4RT_SIMT_EMULATOR
  int64_t bytes = int64_t(simt::device_bytes_in_use());
  int allocations = simt::device_allocations();
  static bool is(int64_t expected) { return int64_t(simt::device_bytes_in_use()) == expected; }
#else
  static bool is(int64_t) { return true; }
#endif
  bool operator==(const Taken&) const = default;
};

// Across the border of the chunk of 64, with a common beginning, with pictures.
std::vector<Request> requests() {
  std::mt19937 random(3);
  const std::vector<int64_t> common = text_prompt(random, 70);
  std::vector<Request> all = {
      greedy(common, 5), greedy(std::vector<int64_t>(common.begin(), common.begin() + 62), 5),
      greedy(text_prompt(random, 1), 5), with_picture(random, 1, 9, 3, 5), with_picture(random, 1, 20, 6, 4)};
  for (Request& r : all) r.sampling.logprobs = 2;
  return all;
}

EngineOptions options() {
  EngineOptions o = small_options();
  o.max_model_len = 96;
  o.max_num_seqs = 3;
  o.max_batched_tokens = 40;
  o.image_cache_bytes = 1 << 20;
  return o;
}

float smallest_margin(const Outputs& outputs) {
  float margin = 100;
  for (const auto& [key, output] : outputs)
    for (const TokenLogprobs& token : output.logprobs)
      margin = std::min(margin, token.top.at(0).second - token.top.at(1).second);
  return margin;
}

TEST(a_toy_model_gives_the_tokens_of_the_cpu) {
  const Unchecked fast;
  const TempDir dir;
  TinyEngine for_cpu = vision_engine(Layout::kCpu16), for_cuda = vision_engine(Layout::kCudaTile);
  for_cpu.seed = for_cuda.seed = kSeed;
  write_tiny_engine(dir / "cpu.l4e", for_cpu);
  write_tiny_engine(dir / "cuda.l4e", for_cuda);
  EngineOptions on_cpu = options();
  on_cpu.device = "cpu";
  on_cpu.activations = "int16";
  Engine cpu(dir / "cpu.l4e", on_cpu);
  const Outputs expected = run_all(cpu, requests());
  CHECK(smallest_margin(expected) > kMargin);

  const auto same = [&](const char* name, const EngineOptions& o) {
    SCOPE(name);
    auto owned = std::make_unique<CudaDevice>(0);
    const CudaDevice& device = *owned;
    Engine engine(dir / "cuda.l4e", o, std::move(owned));
    const ScratchBytes planned = device.scratch_bytes();
    const Taken at_the_start;
    CHECK(Taken::is(engine.plan().total() - engine.plan().driver));
    const Outputs found = run_all(engine, requests());
    CHECK(engine.stats().steps_ahead > 0);
    CHECK(Taken() == at_the_start);  // every byte was planned, and taken then
    CHECK(tokens_of(found) == tokens_of(expected));
    CHECK(device.num_graphs() > 0);
    CHECK_EQ(device.scratch_bytes().values, planned.values);  // the plan knew
    CHECK_EQ(device.scratch_bytes().tickets, planned.tickets);
    return engine.stats();
  };
  CHECK(same("together", options()).scheduler.prefix_hit_tokens > 0);
  EngineOptions o = options();
  o.prefix_cache = false;
  o.kv_cache_bytes = 8 * kTinyBlockBytes;  // 7 blocks and the spare one: 112 tokens for three sequences
  CHECK(same("preempted", o).scheduler.preemptions > 0);
}

// Files of ready codes, as builds import them: prompts that meet the kernels of few, tens and hundreds of rows. The
// reference has fp32 where CUDA has bf16.
TEST(every_kind_of_weight_gives_the_logits_of_the_reference) {
  const Unchecked fast;
  const TempDir dir;
  std::mt19937 random(7);
  std::vector<Request> requests;
  for (const size_t length : {3, 20, 60, 140}) requests.push_back(greedy(text_prompt(random, length), 1));
  for (Request& r : requests) r.sampling.logprobs = 2;
  EngineOptions o = small_options();
  o.max_model_len = 160;
  o.max_num_seqs = 2;
  o.max_batched_tokens = 160;
  o.prefix_cache = false;
  for (const cases::WeightSpec& spec : kGeneralSpecs) {
    SCOPE(weight_kind_name(spec.kind), ", group ", spec.group_size, ", ", dtype_name(spec.scales), " scales");
    const auto run = [&](const char* name, Layout layout, const char* device) {
      TinyEngine tiny;
      tiny.layout = layout;
      tiny.codes = &spec;
      tiny.seed = kSeed;
      tiny.config.attention_chunk_size = 8192;  // the whole prompt is one step
      write_tiny_engine(dir / name, tiny);
      EngineOptions with = o;
      with.device = device;
      Engine engine(dir / name, with,
                    layout == Layout::kCudaTile ? std::make_unique<CudaDevice>(0) : nullptr);
      return run_all(engine, requests);
    };
    const Outputs expected = run("cpu.l4e", Layout::kCpu16, "reference"),
                  found = run("cuda.l4e", Layout::kCudaTile, "auto");
    for (const auto& [key, output] : expected) {
      SCOPE("prompt ", key.first);
      const auto &want = output.logprobs.at(0).top, &got = found.at(key).logprobs.at(0).top;
      CHECK_CLOSE(got.at(0).second, want.at(0).second, kDistance);
      CHECK_CLOSE(got.at(1).second, want.at(1).second, kDistance);
      if (want.at(0).second - want.at(1).second > 2 * kDistance) CHECK_EQ(got.at(0).first, want.at(0).first);
    }
  }
}

// A step ahead is submitted for tokens that can come, not for one beyond the end.
TEST(no_step_is_submitted_beyond_the_end_of_a_request) {
  const Unchecked fast;
  const TempDir dir;
  write_tiny_engine(dir / "cuda.l4e", vision_engine(Layout::kCudaTile));
  std::mt19937 random(5);
  struct Case {
    const char* name;
    int64_t prompt, max_tokens, prompt_steps;
  };
  // Six tokens each: the end is that of the request, or of the context of 96. A step ends with an attention chunk of
  // 64.
  for (const Case& c : {Case{"max_tokens", 20, 6, 1}, Case{"max_model_len", 90, 50, 2}}) {
    SCOPE(c.name);
    EngineOptions o = options();
    o.max_batched_tokens = 96;
    Engine engine(dir / "cuda.l4e", o, std::make_unique<CudaDevice>(0));
    const Outputs outputs = run_all(engine, {greedy(text_prompt(random, size_t(c.prompt)), c.max_tokens)});
    CHECK_EQ(outputs.begin()->second.tokens.size(), size_t(6));
    // The first token comes of the prompt's last step; each of the others has a step that can be submitted ahead.
    CHECK_EQ(engine.stats().steps, c.prompt_steps + 5);
    CHECK_EQ(engine.stats().steps_ahead, 5);
  }
}

// The row of a step in flight belongs to a request that has been aborted, or ended at a stop token: it is kept until
// the step is collected. Freed memory is filled in these tests.
TEST(a_request_that_ends_in_flight_is_kept_until_its_step_is_collected) {
  const Unchecked fast;
  const TempDir dir;
  write_tiny_engine(dir / "cuda.l4e", vision_engine(Layout::kCudaTile));
  std::mt19937 random(6);
  EngineOptions o = options();
  o.max_num_seqs = 3;
  Engine engine(dir / "cuda.l4e", o, std::make_unique<CudaDevice>(0));
  const std::vector<int64_t> prompt = text_prompt(random, 12);
  const std::vector<int32_t> expected = run_all(engine, {greedy(prompt, 16)}).begin()->second.tokens;
  for (int round = 0; round < 2; ++round) {
    const uint64_t kept = engine.submit(greedy(prompt, 16));
    const uint64_t ended = engine.submit(greedy(text_prompt(random, 9), 16));
    const int64_t ahead = engine.stats().steps_ahead;
    Outputs outputs;
    while (engine.stats().steps_ahead < ahead + 2) collect(outputs, engine.step());
    if (round % 2 == 0)
      engine.abort(ended);
    else
      engine.abort_sequence(ended, 0, "stop");
    while (engine.has_work()) collect(outputs, engine.step());
    const Output &of_kept = outputs[{kept, 0}], &of_ended = outputs[{ended, 0}];
    CHECK(of_kept.tokens == expected);
    CHECK_EQ(of_ended.finish_reason, round % 2 == 0 ? "abort" : "stop");
    check_all_blocks_free(engine);
  }
  // Alone: nothing else keeps the step in flight.
  const uint64_t alone = engine.submit(greedy(prompt, 16));
  const int64_t ahead = engine.stats().steps_ahead;
  while (engine.stats().steps_ahead < ahead + 2) engine.step();
  engine.abort(alone);
  while (engine.has_work()) engine.step();
  check_all_blocks_free(engine);
}

}  // namespace
}  // namespace llama4rt::test
