// The engine end to end on a tiny random model: whatever the batch, the chunks, the blocks, the memory and
// the prefix cache do, every request gets the tokens it gets alone, and every block comes back.
#include "runtime/engine/engine.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "model/tiny_engine.h"
#include "reference/reference_ops.h"
#include "runtime/drive_engine.h"
#include "test.h"

namespace llama4rt {
namespace {

using namespace test;

// Lengths around the chunk of 64, some with a common beginning, greedy and sampled, one and several outputs.
std::vector<Request> mixed_requests() {
  std::mt19937 random(42);
  const std::vector<int64_t> common = random_prompt(random, 160);
  std::vector<Request> requests;
  for (size_t length : {1, 5, 63, 64, 65, 100, 128, 200}) {
    requests.push_back(greedy(random_prompt(random, length)));
    Request sampled =
        greedy(std::vector<int64_t>(common.begin(), common.begin() + int64_t(length * 3 / 4 + 1)));
    sampled.sampling.temperature = 0.9;
    sampled.sampling.top_p = 0.95;
    sampled.sampling.repetition_penalty = 1.1;
    sampled.sampling.frequency_penalty = 0.2;
    sampled.seed = int64_t(length);
    sampled.n = length % 3 == 0 ? 3 : 1;
    requests.push_back(sampled);
  }
  return requests;
}

TEST(gives_the_same_tokens_in_every_circumstance) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e");
  const std::vector<Request> requests = mixed_requests();

  // One request at a time in a fresh engine: nothing to share, nothing to wait for.
  std::vector<std::vector<int32_t>> expected;
  for (const Request& r : requests) {
    EngineOptions o = small_options();
    o.prefix_cache = false;
    Engine engine(dir / "m.l4e", o);
    for (auto& tokens : tokens_of(run_all(engine, {r}))) expected.push_back(tokens);
  }
  for (const auto& tokens : expected) CHECK_EQ(tokens.size(), size_t(12));

  struct Circumstance {
    const char* name;
    EngineOptions options;
  };
  std::vector<Circumstance> circumstances;
  const auto add = [&](const char* name, auto change) {
    circumstances.push_back({name, small_options()});
    change(circumstances.back().options);
  };
  add("batched", [](EngineOptions&) {});
  add("without prefix cache", [](EngineOptions& o) { o.prefix_cache = false; });
  add("one thread", [](EngineOptions& o) { o.num_threads = 1; });
  for (int64_t tokens : {1, 7, 33})
    add("prefill in small chunks", [tokens](EngineOptions& o) { o.max_batched_tokens = tokens; });
  add("blocks of 32", [](EngineOptions& o) { o.block_size = 32; });
  add("blocks of 64", [](EngineOptions& o) { o.block_size = 64; });
  add("few sequences", [](EngineOptions& o) { o.max_num_seqs = 3; });
  // 15 blocks of each group: 240 tokens, while the longest request alone needs 212.
  add("preemption", [](EngineOptions& o) { o.kv_cache_bytes = 15 * kTinyBlockBytes; });
  // Whether somebody is preempted depends on who runs beside whom.
  for (int64_t blocks = 14; blocks <= 20; ++blocks)
    add("preemption without prefix cache", [blocks](EngineOptions& o) {
      o.kv_cache_bytes = blocks * kTinyBlockBytes;
      o.prefix_cache = false;
    });
  int64_t preemptions = 0;
  for (const Circumstance& c : circumstances) {
    SCOPE(c.name, ", max_batched_tokens ", c.options.max_batched_tokens);
    Engine engine(dir / "m.l4e", c.options);
    CHECK(tokens_of(run_all(engine, requests)) == expected);
    if (std::string(c.name) == "preemption without prefix cache")
      preemptions += engine.stats().scheduler.preemptions;
    // Once more, now that the cache is warm.
    CHECK(tokens_of(run_all(engine, requests)) == expected);
    if (c.options.prefix_cache) CHECK(engine.stats().scheduler.prefix_hit_tokens > 200);
  }
  CHECK(preemptions > 0);
}

TEST(survives_random_arrivals_and_aborts_exactly) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e");
  EngineOptions tight = small_options();
  tight.kv_cache_bytes = 16 * kTinyBlockBytes;
  tight.max_batched_tokens = 48;
  std::mt19937 random(7);
  std::vector<Request> requests;
  const std::vector<int64_t> common = random_prompt(random, 120);
  for (int i = 0; i < 60; ++i) {
    std::vector<int64_t> prompt(common.begin(), common.begin() + int64_t(random() % 100));
    for (int64_t id : random_prompt(random, 1 + random() % 60)) prompt.push_back(id);
    Request r = greedy(prompt, 1 + int64_t(random() % 25));
    if (random() % 2) r.sampling.temperature = 0.8;
    r.seed = i;
    if (random() % 5 == 0) r.n = 2;
    requests.push_back(r);
  }
  Engine alone(dir / "m.l4e", small_options());
  std::vector<Outputs> expected;
  for (const Request& r : requests) expected.push_back(run_all(alone, {r}));

  Engine engine(dir / "m.l4e", tight);
  Outputs outputs;
  std::map<uint64_t, size_t> request_of;
  std::vector<uint64_t> ids;
  for (size_t i = 0; i < requests.size(); ++i) {
    ids.push_back(engine.submit(requests[i]));
    request_of[ids.back()] = i;
    for (uint32_t steps = random() % 4; steps > 0; --steps) collect(outputs, engine.step());
    if (random() % 4 == 0) engine.abort(ids[random() % ids.size()]);
    if (random() % 8 == 0) engine.abort_sequence(ids[random() % ids.size()], 0, "stop");
  }
  while (engine.has_work()) collect(outputs, engine.step());
  check_all_blocks_free(engine);
  CHECK(engine.stats().scheduler.preemptions > 0);
  int whole = 0;
  for (const auto& [key, output] : outputs) {
    const size_t i = request_of[key.first];
    const std::vector<int32_t>& full = expected[i].at({i + 1, key.second}).tokens;
    CHECK(!output.finish_reason.empty());
    CHECK(output.tokens.size() <= full.size());
    CHECK(std::equal(output.tokens.begin(), output.tokens.end(), full.begin()));
    if (output.finish_reason == "length") {
      CHECK(output.tokens == full);
      ++whole;
    }
  }
  CHECK(whole > 30);
}

TEST(abort_frees_blocks_within_one_step) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e");
  Engine engine(dir / "m.l4e", small_options());
  const uint64_t id = engine.submit(greedy({5, 6, 7}, 400));
  const uint64_t other = engine.submit(greedy({8, 9}, 5));
  Outputs outputs;
  collect(outputs, engine.step());
  CHECK(engine.stats().global.used > 0);
  engine.abort(id);
  engine.abort(12345);  // never existed
  CHECK(engine.has_work());
  collect(outputs, engine.step());
  CHECK_EQ((outputs[{id, 0}].finish_reason), std::string("abort"));
  CHECK_EQ(engine.stats().global.used, 1);  // the other's
  engine.abort(id);                         // already over
  while (engine.has_work()) collect(outputs, engine.step());
  CHECK_EQ((outputs[{other, 0}].tokens.size()), size_t(5));
  // Abort before the first step: the request is heard of exactly once.
  const uint64_t early = engine.submit(greedy({1}, 4));
  engine.abort(early);
  Outputs after;
  while (engine.has_work()) collect(after, engine.step());
  CHECK_EQ((after[{early, 0}].finish_reason), std::string("abort"));
  check_all_blocks_free(engine);
}

std::vector<double> log_softmax(std::span<const float> row) {
  double max = row[0], sum = 0;
  for (float x : row) max = std::max(max, double(x));
  for (float x : row) sum += std::exp(double(x) - max);
  std::vector<double> out;
  for (float x : row) out.push_back(double(x) - max - std::log(sum));
  return out;
}

std::vector<float> score(Engine& engine, const std::vector<int64_t>& prompt) {
  Request r = greedy(prompt);
  r.return_logits = true;
  const Outputs outputs = run_all(engine, {r});
  CHECK_EQ(outputs.size(), size_t(1));
  return outputs.begin()->second.logits;
}

TEST(scores_and_prompt_logprobs_agree_and_ignore_the_prefix_cache) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e");
  std::mt19937 random(3);
  const std::vector<int64_t> prompt = random_prompt(random, 150);
  std::vector<float> first;
  for (int64_t chunk : {0, 16, 41}) {
    EngineOptions o = small_options();
    o.max_batched_tokens = chunk;
    Engine engine(dir / "m.l4e", o);
    run_all(engine, {greedy(prompt)});  // fills the prefix cache
    const std::vector<float> logits = score(engine, prompt);
    CHECK_EQ(logits.size(), size_t(150 * 96));
    if (first.empty()) first = logits;
    CHECK(logits == first);  // bit for bit

    Request r = greedy(prompt, 3);
    r.prompt_logprobs = 2;
    r.sampling.logprobs = 1;
    r.n = 2;
    const Outputs outputs = run_all(engine, {r});
    const Output& output = outputs.begin()->second;
    CHECK(output.prompt_logprobs.has_value());
    CHECK_EQ(output.prompt_logprobs->size(), size_t(149));
    CHECK_EQ(output.cached_tokens, 0);
    CHECK(!std::next(outputs.begin())->second.prompt_logprobs);
    for (size_t i = 0; i < 149; ++i) {
      const auto exact = log_softmax(std::span(logits).subspan(i * 96, 96));
      const TokenLogprobs& got = (*output.prompt_logprobs)[i];
      CHECK_CLOSE(got.logprob, exact[size_t(prompt[i + 1])], 1e-5);
      CHECK_EQ(got.top.size(), size_t(2));
      CHECK_CLOSE(got.top[0].second, *std::max_element(exact.begin(), exact.end()), 1e-5);
    }
    const auto last = log_softmax(std::span(logits).subspan(149 * 96, 96));
    CHECK_CLOSE(output.logprobs[0].logprob, last[size_t(output.tokens[0])], 1e-5);
    CHECK_EQ(output.logprobs[0].top[0].first, output.tokens[0]);
  }
  // Under memory pressure a preempted request continues its list where it stopped.
  EngineOptions tight = small_options();
  tight.kv_cache_bytes = 15 * kTinyBlockBytes;
  tight.max_batched_tokens = 40;
  Engine engine(dir / "m.l4e", tight);
  Request wanted = greedy(prompt, 3);
  wanted.prompt_logprobs = 0;
  const Outputs outputs =
      run_all(engine, {greedy(random_prompt(random, 100), 100), greedy({7, 8, 9}, 90), wanted});
  for (const auto& [key, output] : outputs)
    if (output.prompt_logprobs) {
      CHECK_EQ(output.prompt_logprobs->size(), size_t(149));
      for (size_t i = 0; i < 149; ++i)
        CHECK_CLOSE((*output.prompt_logprobs)[i].logprob,
                    log_softmax(std::span(first).subspan(i * 96, 96))[size_t(prompt[i + 1])], 1e-5);
    }
}

double relative_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (double(a[i]) - b[i]) * (double(a[i]) - b[i]);
    size += double(b[i]) * b[i];
  }
  return a.size() == b.size() ? std::sqrt(difference / size) : 1e9;
}

TEST(on_cpu_agrees_with_the_reference) {
  std::mt19937 random(17);
  const std::vector<int64_t> prompt = random_prompt(random, 140);
  const TempDir dir;
  const auto compare = [&](const TinyEngine& spec, double limit) {
    write_tiny_engine(dir / "m.l4e", spec);
    EngineOptions o = small_options();
    o.kv_cache_dtype = "f32";
    o.activations = "int16";
    Engine cpu(dir / "m.l4e", o);
    o.device = "reference";
    o.activations = "auto";
    Engine reference(dir / "m.l4e", o);
    CHECK_EQ(cpu.device_name(), std::string("cpu"));
    CHECK(relative_difference(score(cpu, prompt), score(reference, prompt)) < limit);
  };
  TinyEngine spec;
  for (const WeightFormat& format : kWeightFormats) {  // in front of integers the CPU rounds activations
    if (!format.from_values) continue;
    SCOPE(format.name);
    spec.kind = format.kind;
    compare(spec, format.meaning == CodeMeaning::kInteger ? 1e-3 : 1e-5);
  }
  // Maverick's habits, two experts per token, and no chunks at all.
  spec.kind = WeightKind::kBF16;
  spec.config.use_qk_norm = false;
  spec.config.num_experts_per_tok = 2;
  compare(spec, 1e-5);
  spec.config.chunked_layers.assign(4, false);
  spec.config.attention_chunk_size = 0;
  compare(spec, 1e-5);
  // Every layer chunked: no global group.
  spec.config.chunked_layers.assign(4, true);
  spec.config.attention_chunk_size = 64;
  compare(spec, 1e-5);
}

// Keys and values of 8 bits change scores, and alike on both devices.
TEST(caches_of_8_bits_work) {
  std::mt19937 random(18);
  const std::vector<int64_t> prompt = random_prompt(random, 140);
  const TempDir dir;
  TinyEngine spec;
  spec.kind = WeightKind::kBF16;
  write_tiny_engine(dir / "m.l4e", spec);
  EngineOptions o = small_options();
  const auto open = [&](const char* device, const char* dtype) {
    o.device = device;
    o.kv_cache_dtype = dtype;
    return std::make_unique<Engine>(dir / "m.l4e", o);
  };
  const std::vector<float> exact = score(*open("reference", "f32"), prompt);
  // Most of the first is a random router that flips, of the second a sum on the other side of a rounding
  // step.
  struct Bounds {
    const char* dtype;
    double from_exact, from_reference;
  };
  for (const auto& [dtype, from_exact, from_reference] : {Bounds{"fp8", 0.2, 0.02}, {"int8", 0.1, 0.005}}) {
    SCOPE(dtype);
    const std::vector<float> cpu = score(*open("cpu", dtype), prompt),
                             want = score(*open("reference", dtype), prompt);
    CHECK(relative_difference(want, exact) > 1e-4);
    CHECK_CLOSE(relative_difference(want, exact), 0.0, from_exact);
    CHECK_CLOSE(relative_difference(cpu, want), 0.0, from_reference);
  }
}

TEST(rotates_by_local_or_absolute_positions_alike) {
  // The same weights; only the flag of a layer without rotation differs, and with it local_rope_positions().
  const TempDir dir;
  TinyEngine spec;
  spec.kind = WeightKind::kBF16;
  write_tiny_engine(dir / "local.l4e", spec);
  spec.config.attention_chunk_size = 512;  // one chunk: local and absolute positions coincide
  write_tiny_engine(dir / "absolute.l4e", spec);
  EngineOptions o = small_options();
  o.kv_cache_dtype = "f32";
  Engine local(dir / "local.l4e", o), absolute(dir / "absolute.l4e", o);
  std::mt19937 random(1);
  const std::vector<int64_t> prompt = random_prompt(random, 100);
  const std::vector<float> a = score(local, prompt), b = score(absolute, prompt);
  const auto head = [](const std::vector<float>& x) { return std::vector(x.begin(), x.begin() + 64 * 96); };
  CHECK(head(a) == head(b));
  CHECK(relative_difference(a, b) > 1e-3);  // beyond the boundary the chunk mask must show
}

TEST(stops_where_it_is_told) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e");
  EngineOptions o = small_options();
  o.max_model_len = 40;
  Engine engine(dir / "m.l4e", o);
  CHECK_EQ(engine.max_model_len(), 40);
  const Output free_run = run_all(engine, {greedy({5, 9, 11}, 500)}).begin()->second;
  CHECK_EQ(free_run.finish_reason, std::string("length"));
  CHECK_EQ(free_run.tokens.size(), size_t(37));

  Request r = greedy({5, 9, 11}, 20);
  r.stop_token_ids = {free_run.tokens[6]};
  const auto first_stop = std::find(free_run.tokens.begin(), free_run.tokens.end(), free_run.tokens[6]);
  Output stopped = run_all(engine, {r}).begin()->second;
  CHECK_EQ(stopped.finish_reason, std::string("stop"));
  CHECK_EQ(stopped.stop_token_id, free_run.tokens[6]);
  CHECK(stopped.tokens == std::vector(free_run.tokens.begin(), first_stop));

  r.sampling.min_tokens = 15;  // the end token is forbidden meanwhile
  stopped = run_all(engine, {r}).begin()->second;
  CHECK(stopped.tokens.size() >= 15);
  CHECK(std::find(stopped.tokens.begin(), stopped.tokens.end(), free_run.tokens[6]) == stopped.tokens.end());

  // The model's own end token, taken and ignored.
  r = greedy({5, 9, 11}, 20);
  r.sampling.logit_bias = {{2, 1000.0}};
  r.ignore_eos = false;
  stopped = run_all(engine, {r}).begin()->second;
  CHECK_EQ(stopped.stop_token_id, 2);
  CHECK(stopped.tokens.empty());
  r.ignore_eos = true;
  CHECK_EQ(run_all(engine, {r}).begin()->second.tokens.size(), size_t(20));

  // A stop string found by the caller.
  const uint64_t id = engine.submit(greedy({5}, 30));
  Outputs outputs;
  for (int i = 0; i < 4; ++i) collect(outputs, engine.step());
  engine.abort_sequence(id, 0, "stop");
  while (engine.has_work()) collect(outputs, engine.step());
  CHECK_EQ((outputs[{id, 0}].finish_reason), std::string("stop"));
  CHECK_EQ((outputs[{id, 0}].tokens.size()), size_t(4));
  CHECK_THROWS(kRequest, engine.abort_sequence(id, 0, "because"));
}

TEST(siblings_share_their_prompt) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e");
  Engine engine(dir / "m.l4e", small_options());
  std::mt19937 random(2);
  Request r = greedy(random_prompt(random, 100), 8);
  r.sampling.temperature = 1;
  r.n = 4;
  r.seed = 5;
  const Outputs outputs = run_all(engine, {r});
  CHECK_EQ(outputs.size(), size_t(4));
  for (const auto& [key, output] : outputs) {
    CHECK_EQ(output.tokens.size(), size_t(8));
    CHECK_EQ(output.cached_tokens, key.second == 0 ? 0 : 96);
  }
  CHECK(outputs.begin()->second.tokens != std::next(outputs.begin())->second.tokens);
}

std::string refusal(Engine& engine, const Request& r) {
  try {
    engine.submit(r);
  } catch (const Error& e) {
    CHECK(e.kind() == ErrorKind::kRequest);
    return e.what();
  }
  return "";
}

TEST(refuses_every_number_out_of_its_range_by_name) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e");
  EngineOptions o = small_options();
  o.max_model_len = 50;
  Engine engine(dir / "m.l4e", o);
  const auto refuses = [&](const std::string& named, auto change) {
    Request r = greedy({1, 2, 3});
    change(r);
    const std::string message = refusal(engine, r);
    SCOPE(named, ": ", message);
    CHECK(message.find(named) != std::string::npos);
  };
  const double nan = std::nan(""), inf = HUGE_VAL;
  refuses("prompt_token_ids is empty", [](Request& r) { r.prompt_token_ids.clear(); });
  refuses("prompt_token_ids[1] is 96", [](Request& r) { r.prompt_token_ids[1] = 96; });
  refuses("prompt_token_ids[2] is -1", [](Request& r) { r.prompt_token_ids[2] = -1; });
  refuses("prompt_token_ids[0] is 4294967297", [](Request& r) { r.prompt_token_ids[0] = (1ll << 32) + 1; });
  refuses("the prompt has 50 tokens, but max_model_len is 50: it may have 49 at most",
          [](Request& r) { r.prompt_token_ids.assign(50, 1); });
  refuses("the prompt has 51 tokens", [](Request& r) {
    r.prompt_token_ids.assign(51, 1);
    r.return_logits = true;
  });
  for (int64_t n : {0, -1, 17}) refuses("n is ", [n](Request& r) { r.n = n; });
  for (int64_t n : {0, -5}) refuses("max_tokens is ", [n](Request& r) { r.max_tokens = n; });
  refuses("min_tokens is -1", [](Request& r) { r.sampling.min_tokens = -1; });
  refuses("min_tokens is 13", [](Request& r) { r.sampling.min_tokens = 13; });
  for (double x : {-0.1, nan, inf, -inf}) {
    refuses("temperature is", [x](Request& r) { r.sampling.temperature = x; });
    refuses("top_p is", [x](Request& r) { r.sampling.top_p = x; });
    refuses("min_p is", [x](Request& r) { r.sampling.min_p = x; });
    refuses("repetition_penalty is", [x](Request& r) { r.sampling.repetition_penalty = x; });
  }
  refuses("top_p is 0", [](Request& r) { r.sampling.top_p = 0; });
  refuses("top_p is 1.5", [](Request& r) { r.sampling.top_p = 1.5; });
  refuses("min_p is 2", [](Request& r) { r.sampling.min_p = 2; });
  refuses("top_k is -1", [](Request& r) { r.sampling.top_k = -1; });
  for (double x : {nan, inf}) {
    refuses("presence_penalty is", [x](Request& r) { r.sampling.presence_penalty = x; });
    refuses("frequency_penalty is", [x](Request& r) { r.sampling.frequency_penalty = x; });
    refuses("logit_bias is", [x](Request& r) { r.sampling.logit_bias = {{1, x}}; });
  }
  for (double x : {0.0, -0.1, 1.01, nan})
    refuses("typical_p is", [x](Request& r) { r.sampling.typical_p = x; });
  refuses("allowed_token_ids[1] is 96", [](Request& r) { r.sampling.allowed_token_ids = {1, 96}; });
  refuses("bad_words[1] is -1", [](Request& r) { r.sampling.bad_words = {{1, -1}}; });
  refuses("a sequence of bad_words has 0 tokens", [](Request& r) { r.sampling.bad_words = {{}}; });
  refuses("leave no token that may come", [](Request& r) {
    r.sampling.allowed_token_ids = {4, 5};
    r.sampling.bad_words = {{4}, {3, 5}};
  });
  refuses("leave no token that may come", [](Request& r) {
    r.sampling.allowed_token_ids = {4};
    r.sampling.min_tokens = 1;
    r.stop_token_ids = {4};
  });
  refuses("logit_bias names token 96", [](Request& r) { r.sampling.logit_bias = {{96, 1.0}}; });
  refuses("logit_bias names token 3 more than once",
          [](Request& r) { r.sampling.logit_bias = {{3, 1.0}, {4, 1.0}, {3, 2.0}}; });
  refuses("logprobs is 21", [](Request& r) { r.sampling.logprobs = 21; });
  refuses("prompt_logprobs is -2", [](Request& r) { r.prompt_logprobs = -2; });
  refuses("stop_token_ids[0] is 100", [](Request& r) { r.stop_token_ids = {100}; });
  CHECK(!engine.has_work());
  CHECK_EQ(run_all(engine, {greedy({1, 2, 3})}).begin()->second.tokens.size(), size_t(12));
}

TEST(refuses_more_than_max_waiting) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e");
  EngineOptions o = small_options();
  o.max_waiting = 3;
  Engine engine(dir / "m.l4e", o);
  for (int i = 0; i < 3; ++i) engine.submit(greedy({1}));
  CHECK(refusal(engine, greedy({1})).find("queue full: 3 sequences are waiting") != std::string::npos);
  engine.step();
  CHECK_EQ(refusal(engine, greedy({1})), std::string());
  while (engine.has_work()) engine.step();
}

TEST(refuses_impossible_options) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e");
  const auto refuses = [&](auto change) {
    EngineOptions o = small_options();
    change(o);
    CHECK_THROWS(kConfig, Engine(dir / "m.l4e", o));
  };
  refuses([](EngineOptions& o) { o.device = "tpu"; });
  refuses([](EngineOptions& o) { o.kv_cache_dtype = "fp6"; });
  refuses([](EngineOptions& o) { o.block_size = 48; });
  refuses([](EngineOptions& o) { o.max_num_seqs = -1; });
  refuses([](EngineOptions& o) { o.num_threads = 100000; });
  refuses([](EngineOptions& o) { o.max_model_len = 513; });
  refuses([](EngineOptions& o) { o.kv_cache_bytes = 100; });
  refuses([](EngineOptions& o) {
    o.max_num_seqs = 8;
    o.max_batched_tokens = 4;
  });
  CHECK_THROWS(kEngineFile, Engine(dir / "absent.l4e", small_options()));
}

TEST(ends_only_the_sequence_whose_logits_are_not_finite) {
  // Channel 0 is zero in every token but 7 and written by no layer; the final norm blows it up.
  TinyEngine spec;
  spec.kind = WeightKind::kBF16;
  spec.change = [](const std::string& name, std::vector<float>& values, int64_t columns) {
    if (name == "embed")
      for (size_t row = 0; row < values.size() / size_t(columns); ++row)
        values[row * size_t(columns)] = row == 7 ? 1.f : 0.f;
    if (name.ends_with("attn.o") || name.ends_with(".down")) std::fill_n(values.begin(), columns, 0.f);
    if (name == "norm") values[0] = 3e38f;
    if (name == "lm_head")
      for (size_t row = 0; row < values.size() / size_t(columns); ++row) values[row * size_t(columns)] = 30;
  };
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e", spec);
  Engine engine(dir / "m.l4e", small_options());
  Request good = greedy({5, 6});
  good.sampling.logit_bias = {{7, -1000.0}};
  Request bad = good;
  bad.prompt_token_ids = {5, 7};
  const Outputs outputs = run_all(engine, {good, bad, good});
  CHECK_EQ((outputs.at({1, 0}).tokens.size()), size_t(12));
  CHECK_EQ((outputs.at({3, 0}).tokens.size()), size_t(12));
  CHECK_EQ((outputs.at({2, 0}).finish_reason), std::string("error"));
  CHECK((outputs.at({2, 0}).error.find("position 1 hold NaN or infinity") != std::string::npos));
}

// The reference, which fails when told to.
class FailingOps : public ReferenceOps {
 public:
  using ReferenceOps::ReferenceOps;
  int fail_after = -1;  // linear_add calls

 private:
  void do_linear_add(Tensor x, Tensor a, const Weight& w) override {
    if (fail_after >= 0 && fail_after-- == 0) throw std::bad_alloc();
    ReferenceOps::do_linear_add(x, a, w);
  }
};
class FailingDevice : public HostDevice {
 public:
  FailingDevice() : HostDevice(device_traits("reference")), failing(traits()) {}
  Ops& ops() override { return failing; }
  std::string name() const override { return "reference"; }
  std::string describe() const override { return "reference, failing"; }

  FailingOps failing;
};

TEST(keeps_serving_after_a_step_that_throws) {
  TinyEngine spec;
  spec.config.moe_layers.assign(4, false);
  spec.config.num_local_experts = 0;
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e", spec);
  auto device = std::make_unique<FailingDevice>();
  FailingOps& faulty = device->failing;
  Engine engine(dir / "m.l4e", small_options(), std::move(device));
  const Request request = greedy({4, 5, 6});
  const auto expected = run_all(engine, {request}).begin()->second.tokens;
  for (int when : {0, 3, 9, 20}) {
    faulty.fail_after = when;
    const Outputs outputs = run_all(engine, {request, request});
    for (const auto& [key, output] : outputs) {
      CHECK_EQ(output.finish_reason, std::string("error"));
      CHECK(output.error.find("no memory for a step") != std::string::npos);
    }
    CHECK(run_all(engine, {request}).begin()->second.tokens == expected);
  }
}

TEST(takes_requests_from_many_threads) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e");
  Engine engine(dir / "m.l4e", small_options());
  std::vector<std::thread> callers;
  for (int t = 0; t < 4; ++t)
    callers.emplace_back([&engine, t] {
      for (int i = 0; i < 25; ++i) {
        const uint64_t id = engine.submit(greedy({1 + t, 2 + i}, 3));
        if (i % 5 == 0) engine.abort(id);
        engine.stats();
      }
    });
  Outputs outputs;
  std::thread stepper([&] {
    while (outputs.size() < 100 || engine.has_work()) collect(outputs, engine.step());
  });
  for (std::thread& caller : callers) caller.join();
  stepper.join();
  CHECK_EQ(outputs.size(), size_t(100));
  check_all_blocks_free(engine);
}

TEST(refuses_to_work_in_a_forked_child_and_lets_it_exit) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e");
  auto engine = std::make_unique<Engine>(dir / "m.l4e", small_options());
  run_all(*engine, {greedy({1, 2})});
  const pid_t child = fork();
  if (child == 0) {
    int code = 1;
    try {
      engine->has_work();
    } catch (const Error&) {
      code = 0;
    }
    engine.reset();  // must not wait for threads that only the parent has
    _exit(code);
  }
  int status = 0;
  CHECK_EQ(waitpid(child, &status, 0), child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  CHECK_EQ(run_all(*engine, {greedy({1, 2})}).begin()->second.tokens.size(), size_t(12));
}

TEST(close_is_final_and_idempotent) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e");
  Engine engine(dir / "m.l4e", small_options());
  engine.submit(greedy({1}));
  engine.close();
  engine.close();
  CHECK(!engine.has_work());
  CHECK_THROWS(kInternal, engine.step());
  CHECK_THROWS(kInternal, engine.submit(greedy({1})));
}

}  // namespace
}  // namespace llama4rt
