// The runtime on a device with memory of its own: the same tokens as on the CPU, memory as planned, steps
// that can be replayed. Kernels are the reference's here.
#include <algorithm>
#include <memory>
#include <random>
#include <string>

#include "cuda/cuda_device.h"
#include "cuda/cuda_system.h"
#include "cuda/device_reference.h"
#include "cuda/tiny_vision.h"
#include "runtime/engine/engine.h"

namespace llama4rt::test {
namespace {

// Around the chunk of 64, with common beginnings and with pictures; greedy and sampled.
std::vector<Request> requests() {
  std::mt19937 random(7);
  const auto text = [&](size_t length) { return text_prompt(random, length); };
  const std::vector<int64_t> common = text(100);
  std::vector<Request> all;
  for (const size_t length : {1, 40, 63, 64, 97}) {
    all.push_back(greedy(text(length)));
    all.push_back(greedy(std::vector<int64_t>(common.begin(), common.begin() + int64_t(length))));
    all.back().sampling.temperature = 0.8;
    all.back().seed = int64_t(length);
  }
  for (const uint32_t seed : {1u, 2u, 1u}) all.push_back(with_picture(random, seed, 30, 5 * seed));
  all[0].prompt_logprobs = -1;
  all[4].prompt_logprobs = 2;
  return all;
}

EngineOptions options() {
  EngineOptions o = small_options();
  o.max_model_len = 160;
  o.max_num_seqs = 5;
  o.max_batched_tokens = 48;
  o.image_cache_bytes = 1 << 20;
  return o;
}

TEST(the_runtime_gives_the_same_tokens_as_on_the_cpu) {
  const TempDir dir;
  write_tiny_engine(dir / "cpu.l4e", vision_engine(Layout::kCpu16));
  write_tiny_engine(dir / "cuda.l4e", vision_engine(Layout::kCudaTile));
  Engine cpu(dir / "cpu.l4e", options(), std::make_unique<ReferenceDevice>());
  const auto expected = tokens_of(run_all(cpu, requests()));

  const auto same = [&](const char* name, const EngineOptions& o) {
    for (const bool behind : {false, true}) {
      SCOPE(name, behind ? ", steps submitted ahead" : "");
      auto owned = std::make_unique<DeviceReference>(behind);
      DeviceReference& device = *owned;
      Engine engine(dir / "cuda.l4e", o, std::move(owned));
      CHECK(tokens_of(run_all(engine, requests())) == expected);
      CHECK(device.num_runs() > device.num_keys());
      CHECK(device.num_keys() >= 2);
      CHECK_EQ(engine.stats().steps_ahead > 0, behind);
    }
  };
  same("as it is", options());
  EngineOptions o = options();
  o.prefix_cache = false;
  o.max_num_seqs = 11;  // padded to 16
  o.max_batched_tokens = 24;
  same("many sequences", o);
  o = options();
  o.kv_cache_bytes = 12 * kTinyBlockBytes;
  same("preemption", o);
  o = options();
  o.image_cache_bytes = 2500;  // two pictures of 1024 bytes
  same("little memory for pictures", o);
  o.image_cache_bytes = 700;  // none: each on its own
  same("no memory for pictures", o);
}

// Sequences that end while the step after is under way: by a token, by the caller, by their length; and what
// needs the host between steps.
TEST(steps_ahead_of_a_sequence_that_ends_are_forgotten) {
  const TempDir dir;
  write_tiny_engine(dir / "cpu.l4e", vision_engine(Layout::kCpu16));
  write_tiny_engine(dir / "cuda.l4e", vision_engine(Layout::kCudaTile));
  EngineOptions o = options();
  o.max_num_seqs = 16;  // nobody waits for long
  Engine cpu(dir / "cpu.l4e", o, std::make_unique<ReferenceDevice>());
  std::vector<Request> all = requests();
  const auto plain = tokens_of(run_all(cpu, all));
  for (size_t i = 0; i < all.size(); ++i) {
    SamplingParams& p = all[i].sampling;
    if (i % 3 == 0) all[i].stop_token_ids = {plain[i][4 + i % 5]};
    if (i % 3 == 1) all[i].max_tokens = int64_t(2 + i);
    if (i % 3 == 2 && i != 8) all[i].max_tokens = 40;  // after those that need the host
    if (i % 4 == 0) p.logprobs = 3;
    if (i == 7) p.repetition_penalty = 1.3;
    if (i == 8) p.logit_bias = {{5, 5.0}, {9, 3.0}};
    if (i == 8) all[i].prompt_logprobs = 2;  // for the host
    if (i == 5) p.min_tokens = 9;
  }
  all[3].n = 3;
  const auto drive = [&](Engine& engine) {
    std::vector<uint64_t> ids;
    for (const Request& r : all) ids.push_back(engine.submit(r));
    Outputs outputs;
    for (int step = 0; engine.has_work(); ++step) {
      collect(outputs, engine.step());
      const Output& third = outputs[{ids[2], 0}];
      if (third.tokens.size() == 3 && third.finish_reason.empty()) engine.abort(ids[2]);
    }
    check_all_blocks_free(engine);
    return outputs;
  };
  const Outputs expected = drive(cpu);
  Engine engine(dir / "cuda.l4e", o, std::make_unique<DeviceReference>(true));
  const Outputs found = drive(engine);
  CHECK(tokens_of(found) == tokens_of(expected));
  CHECK_EQ(found.size(), expected.size());
  for (auto a = found.begin(), b = expected.begin(); a != found.end() && b != expected.end(); ++a, ++b) {
    SCOPE("request ", a->first.first);
    CHECK_EQ(a->second.finish_reason, b->second.finish_reason);
    CHECK_EQ(a->second.stop_token_id, b->second.stop_token_id);
    CHECK_EQ(a->second.logprobs.size(), b->second.logprobs.size());
  }
  CHECK(engine.stats().steps_ahead > 10);
  CHECK(engine.stats().steps > engine.stats().steps_ahead);
  // One alone: nearly every step is ahead.
  Engine single(dir / "cuda.l4e", o, std::make_unique<DeviceReference>(true));
  std::mt19937 random(11);
  const std::vector<int64_t> prompt = text_prompt(random, 20);
  CHECK(tokens_of(run_all(single, {greedy(prompt, 100)})) == tokens_of(run_all(cpu, {greedy(prompt, 100)})));
  CHECK_EQ(single.stats().steps, 100);
  CHECK_EQ(single.stats().steps_ahead, 99);
}

// Rows whose tokens the device may choose ahead, rows that need the tokens before them, and rows for the host.
TEST(tokens_that_may_not_come_are_those_of_the_cpu) {
  const TempDir dir;
  write_tiny_engine(dir / "cpu.l4e", vision_engine(Layout::kCpu16));
  write_tiny_engine(dir / "cuda.l4e", vision_engine(Layout::kCudaTile));
  Engine cpu(dir / "cpu.l4e", options(), std::make_unique<ReferenceDevice>());
  const auto plain = tokens_of(run_all(cpu, requests()));
  for (int kind = 0; kind < 6; ++kind) {
    SCOPE("kind ", kind);
    std::vector<Request> all = requests();
    for (size_t i = 0; i < all.size(); ++i) {
      SamplingParams& p = all[i].sampling;
      const std::vector<int32_t>& own = plain[i];
      if (kind == 0) p.bad_words = {{own[1]}, {own[2]}};
      if (kind == 1) p.bad_words = {{own[0], own[1]}, {own[2], own[3], own[4]}};
      if (kind == 2) p.allowed_token_ids = {own[0], own[1], own[2], 7, 8, 9};
      if (kind == 3) p.temperature = 1, p.typical_p = 0.6, all[i].seed = int64_t(i);
      if (kind == 4) p.repetition_penalty = 8;
      if (kind == 5) p.frequency_penalty = 2;
    }
    const auto expected = tokens_of(run_all(cpu, all));
    CHECK(expected != plain);
    for (const bool behind : {false, true}) {
      Engine engine(dir / "cuda.l4e", options(), std::make_unique<DeviceReference>(behind));
      CHECK(tokens_of(run_all(engine, all)) == expected);
      if (behind) CHECK_EQ(engine.stats().steps_ahead > 0, kind == 0 || kind == 2);
    }
  }
}

TEST(what_is_planned_is_what_is_allocated) {
  const TempDir dir;
  write_tiny_engine(dir / "cuda.l4e", vision_engine(Layout::kCudaTile));
  for (const int64_t model_len : {64, 512}) {
    const size_t before = simt::device_bytes_in_use();
    EngineOptions o = options();
    o.max_model_len = model_len;
    o.kv_cache_bytes = 0;
    const MemoryPlan plan = plan_engine(EngineFile(dir / "cuda.l4e"), o);
    const Engine engine(dir / "cuda.l4e", o, std::make_unique<CudaDevice>(0));
    CHECK_EQ(engine.device_name(), "cuda:0");
    CHECK_EQ(engine.plan().total(), plan.total());
    CHECK_EQ(int64_t(simt::device_bytes_in_use() - before), plan.total() - plan.driver);
    CHECK_EQ(plan.full_sequences(), 5);
  }
  CHECK_EQ(simt::device_bytes_in_use(), size_t(0));
}

TEST(a_model_that_does_not_fit_is_refused_with_the_longest_context) {
  const TempDir dir;
  write_tiny_engine(dir / "cuda.l4e", vision_engine(Layout::kCudaTile));
  const EngineFile file(dir / "cuda.l4e");
  EngineOptions o = options();
  o.kv_cache_bytes = 0;
  o.max_model_len = 512;
  o.max_num_seqs = 1;
  o.memory_bytes = plan_engine(file, o).total() - 1;
  const int64_t longest = longest_context(file, o);
  CHECK(longest > 0 && longest < 512);
  try {
    Engine(dir / "cuda.l4e", o, std::make_unique<CudaDevice>(0));
    CHECK(false);
  } catch (const Error& e) {
    CHECK(e.kind() == ErrorKind::kConfig);
    const std::string text = e.what();
    CHECK(text.find("longest max_model_len that fits is " + std::to_string(longest)) != std::string::npos);
  }
  CHECK_EQ(simt::device_bytes_in_use(), size_t(0));  // nothing was loaded
  o.max_model_len = longest;
  CHECK_EQ(Engine(dir / "cuda.l4e", o, std::make_unique<CudaDevice>(0)).max_model_len(), longest);
  o.max_model_len = longest + 1;
  CHECK_THROWS(kConfig, plan_engine(file, o));
  o.max_model_len = 0;  // then it is chosen
  CHECK_EQ(plan_engine(file, o).kv.max_model_len, longest);
}

TEST(files_for_the_other_device_are_refused) {
  const TempDir dir;
  write_tiny_engine(dir / "cpu.l4e");
  TinyEngine for_cuda;
  for_cuda.layout = Layout::kCudaTile;
  write_tiny_engine(dir / "cuda.l4e", for_cuda);
  const auto message = [&](const char* name, const char* device) -> std::string {
    EngineOptions o = options();
    o.device = device;
    try {
      const Engine engine(dir / name, o);
      return engine.device_name();
    } catch (const Error& e) {
      CHECK(e.kind() == ErrorKind::kEngineFile);
      return e.what();
    }
  };
  CHECK(message("cpu.l4e", "cuda:0").find("llama4rt build --target cuda SRC") != std::string::npos);
  CHECK(message("cuda.l4e", "cpu").find("llama4rt build --target cpu SRC") != std::string::npos);
  CHECK_EQ(message("cpu.l4e", "auto"), "cpu");
  CHECK_EQ(message("cuda.l4e", "auto"), "cuda:0");
  CHECK_EQ(message("cuda.l4e", "cuda"), "cuda:0");
  EngineOptions o = options();
  for (const char* device : {"cuda:1", "cuda:", "cuda:x", "cuda0", "cuda:-1", "tpu"}) {
    SCOPE(device);
    o.device = device;
    CHECK_THROWS(kConfig, Engine(dir / "cuda.l4e", o));
  }
}

TEST(uploads_arrive_whole_whatever_their_size) {
  cuda::Stream stream;
  Uploader uploader(stream, 4096);
  std::mt19937 random(3);
  struct Sent {
    std::vector<char> data;
    cuda::DeviceBuffer buffer;
  };
  std::vector<Sent> all;
  for (const size_t bytes : {1, 4095, 4096, 4097, 3 * 4096, 100003}) {
    std::vector<char> data(bytes);
    for (char& c : data) c = char(random());
    all.push_back({data, cuda::DeviceBuffer(bytes)});
    uploader.copy(all.back().buffer.data(), data.data(), bytes);
    std::fill(data.begin(), data.end(), char(0x55));  // `src` is free now
  }
  for (const Sent& sent : all) {
    std::vector<char> back(sent.data.size(), 'x');
    stream.copy_to_host(back.data(), sent.buffer.data(), back.size());
    stream.synchronize();
    CHECK(back == sent.data);
  }
}

// A recorded step reads what lies at its addresses when it runs, not what lay there when it was recorded.
TEST(a_replayed_step_computes_anew) {
  CudaDevice device(0);
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  constexpr int64_t kRows = 3, kColumns = 50;
  const auto matrix = [&](int64_t rows) {
    return Tensor(device.allocate(size_t(rows * kColumns) * 4), DType::kF32, {rows, kColumns});
  };
  const auto put = [&](const Tensor& t) {
    std::vector<float> values(size_t(t.numel()));
    for (float& v : values) v = normal(random);
    device.copy_to_device(t.data, values.data(), values.size() * 4);
  };
  const auto get = [&](const Tensor& t) {
    std::vector<float> values(size_t(t.numel()));
    device.copy_to_host(values.data(), t.data, values.size() * 4);
    return values;
  };
  const Tensor x = matrix(kRows), weight = matrix(1), out = matrix(kRows), direct = matrix(kRows);
  const Tensor gain(weight.data, DType::kF32, {kColumns});
  put(weight);
  int submitted = 0;
  for (int run = 0; run < 5; ++run) {
    put(x);
    device.run_captured(17, [&] {
      ++submitted;
      device.ops().rmsnorm(out, x, gain, 1e-5f);
    });
    device.ops().rmsnorm(direct, x, gain, 1e-5f);
    CHECK(get(out) == get(direct));
  }
  CHECK_EQ(submitted, 2);  // directly, and for the record
  CHECK_EQ(device.num_graphs(), 1);
  device.forget_captured();
  CHECK_EQ(device.num_graphs(), 0);
  // Records name the scratch they were made with.
  for (int run = 0; run < 2; ++run)
    device.run_captured(17, [&] { device.ops().rmsnorm(out, x, gain, 1e-5f); });
  CHECK_EQ(device.num_graphs(), 1);
  device.scratch(size_t(device.scratch_bytes().values) + 1);
  CHECK_EQ(device.num_graphs(), 0);
  for (const Tensor& t : {x, weight, out, direct}) device.deallocate(t.data, 0);
}

TEST(random_weights_have_every_tensor_and_run) {
  EngineOptions o = options();
  DummyModel model{.config = vision_engine(Layout::kCpu16).config, .weights = {}};
  for (const WeightKind kind : {WeightKind::kInt4, WeightKind::kInt8, WeightKind::kBF16}) {
    SCOPE(weight_kind_name(kind));
    model.weights.weights = kind;
    model.weights.group_size = 32;
    Engine cpu(model, o, std::make_unique<ReferenceDevice>());
    Engine device(model, o, std::make_unique<DeviceReference>());
    CHECK(cpu.file() == nullptr);
    const auto tokens = tokens_of(run_all(device, requests()));
    CHECK_EQ(tokens.size(), requests().size());
    for (const auto& sequence : tokens) CHECK_EQ(sequence.size(), size_t(12));
    CHECK_EQ(tokens_of(run_all(cpu, requests())).size(), requests().size());
  }
}

}  // namespace
}  // namespace llama4rt::test
