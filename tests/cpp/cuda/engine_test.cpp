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
#include "cuda/simt_test.h"
#include "cuda/tiny_vision.h"
#ifdef LLAMA4RT_SIMT_EMULATOR
#include "simt_emulator/device_memory.h"
#endif

namespace llama4rt::test {
namespace {

constexpr uint32_t kSeed = 34;
constexpr float kMargin = 0.12f;  // of log probability, between the best token and the next

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

}  // namespace
}  // namespace llama4rt::test
