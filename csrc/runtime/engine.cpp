#include "runtime/engine.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "ops/kv_int8.h"
#include "runtime/device_weights.h"
#include "runtime/kv_cache.h"
#include "runtime/memory_limit.h"

namespace llama4rt {
namespace {

constexpr int64_t kDefaultKvCacheBytes = int64_t(4) << 30;
constexpr int64_t kDefaultImageCacheBytes = int64_t(512) << 20;
constexpr int64_t kDefaultMaxNumSeqs = 16;
constexpr int64_t kDefaultMaxBatchedTokens = 512;
// A GPU multiplies thousands of tokens at once before it is busy.
constexpr int64_t kDefaultMaxBatchedTokensOnDevice = 4096;
// A backstop for programs that never wait; servers set their own, smaller limit.
constexpr int64_t kDefaultMaxWaiting = 65'536;

int64_t option(const char* name, int64_t value, int64_t maximum, int64_t chosen) {
  LLAMA4RT_CHECK(kConfig, value >= 0 && value <= maximum, name, " is ", value, "; it must be in 1..", maximum,
                 ", or 0 to let the engine choose");
  return value == 0 ? chosen : value;
}

DType kv_dtype(const std::string& name, const std::string& device, int64_t head_dim) {
  if (name == "int8") {
    LLAMA4RT_CHECK(kConfig, device_traits(device).host_memory,
                   "kv_cache_dtype \"int8\" is for CPUs; on a GPU use \"fp8\"");
    LLAMA4RT_CHECK(kConfig, head_dim % 16 == 0 && head_dim <= kMaxInt8HeadDim,
                   "kv_cache_dtype \"int8\" needs a ", "head_dim that is a multiple of 16, at most ",
                   kMaxInt8HeadDim, "; the model's is ", head_dim);
    return DType::kI8;
  }
  if (name == "auto") return device == "reference" ? DType::kF32 : DType::kBF16;
  if (name == "bf16" || name == "bfloat16") return DType::kBF16;
  if (name == "f32" || name == "float32") return DType::kF32;
  LLAMA4RT_CHECK(kConfig, name == "fp8" || name == "fp8_e4m3", "kv_cache_dtype is \"", name,
                 "\"; it must be \"auto\", \"bf16\", \"f32\", \"fp8\" or \"int8\"");
  return DType::kF8E4M3;
}

// Every choice that the caller left open, for this kind of device.
PlanOptions plan_options(const ModelConfig& config, const EngineOptions& options, const std::string& device) {
  const DeviceTraits traits = device_traits(device);
  const int64_t tokens = option("max_batched_tokens", options.max_batched_tokens, 65'536, 0);
  PlanOptions plan;
  // Every running sequence gets a token in each step, so there are never more of them than tokens.
  plan.max_num_seqs = option("max_num_seqs", options.max_num_seqs, 4096,
                             tokens == 0 ? kDefaultMaxNumSeqs : std::min(kDefaultMaxNumSeqs, tokens));
  const int64_t default_tokens =
      traits.host_memory ? kDefaultMaxBatchedTokens : kDefaultMaxBatchedTokensOnDevice;
  plan.max_batched_tokens = tokens == 0 ? std::max(default_tokens, plan.max_num_seqs) : tokens;
  plan.max_model_len = options.max_model_len;
  plan.block_size = int(option("block_size", options.block_size, 1024, 16));
  plan.kv_dtype = kv_dtype(options.kv_cache_dtype, device, config.head_dim);
  plan.memory = option("gpu_memory", options.memory_bytes, int64_t(1) << 50, 0);
  // On a CPU, pages are backed when first written, but one day all of them may be: leave half to everything
  // else.
  plan.kv_cache_bytes = option(
      "kv_cache_memory", options.kv_cache_bytes, int64_t(1) << 50,
      traits.host_memory && plan.memory == 0 ? std::min(kDefaultKvCacheBytes, available_memory() / 2) : 0);
  plan.image_bytes = option("image_cache_memory", options.image_cache_bytes, int64_t(1) << 50,
                            traits.host_memory ? std::min(kDefaultImageCacheBytes, available_memory() / 8)
                                               : kDefaultImageCacheBytes);
  if (!config.vision) plan.image_bytes = 0;
  return plan;
}

std::unique_ptr<Backend> make_backend_for(const std::string& device, const EngineOptions& options) {
  return make_backend(device, int(option("num_threads", options.num_threads, 1024, 0)),
                      activations_by_name(options.activations));
}

std::string device_of(const EngineFile& file, const EngineOptions& options) {
  return choose_device(options.device, file.layout());
}
std::string device_of(const DummyModel&, const EngineOptions& options) {
  return choose_device(options.device, Layout::kCpu16);
}
int64_t weight_bytes(const EngineFile& file, const std::string&) { return DeviceWeights::bytes(file); }
int64_t weight_bytes(const DummyModel& model, const std::string& device) {
  WeightOptions weights = model.weights;
  weights.layout = device_traits(device).layout;
  return DummyWeights::bytes(model.config, weights);
}
const ModelConfig& config_of(const EngineFile& file) { return file.config(); }
const ModelConfig& config_of(const DummyModel& model) { return model.config; }

template <class Model>
MemoryPlan plan_of(const Model& model, const EngineOptions& options) {
  const std::string device = device_of(model, options);
  return plan_memory(config_of(model), weight_bytes(model, device), device_traits(device),
                     plan_options(config_of(model), options, device));
}
template <class Model>
int64_t longest_of(const Model& model, const EngineOptions& options) {
  const std::string device = device_of(model, options);
  return longest_context(config_of(model), weight_bytes(model, device), device_traits(device),
                         plan_options(config_of(model), options, device));
}

// The options with what this very device has, where the caller set no limit.
EngineOptions on_device(EngineOptions options, const Backend& backend) {
  options.device = backend.name();
  if (options.memory_bytes == 0 && !backend.host_memory()) options.memory_bytes = backend.free_memory();
  return options;
}

}  // namespace

MemoryPlan plan_engine(const EngineFile& file, const EngineOptions& options) {
  return plan_of(file, options);
}
MemoryPlan plan_engine(const DummyModel& model, const EngineOptions& options) {
  return plan_of(model, options);
}
int64_t longest_context(const EngineFile& file, const EngineOptions& options) {
  return longest_of(file, options);
}
int64_t longest_context(const DummyModel& model, const EngineOptions& options) {
  return longest_of(model, options);
}

Engine::Engine(const std::string& path, const EngineOptions& options, std::unique_ptr<Backend> backend)
    : owner_(getpid()),
      file_(std::make_unique<EngineFile>(path)),
      config_(file_->config()),
      backend_(std::move(backend)) {
  if (!backend_) backend_ = make_backend_for(device_of(*file_, options), options);
  backend_->enter_thread();
  file_->require_layout(backend_->matrix_layout(), backend_->name());
  Llama4Weights::load(*file_);  // what is missing is said before gigabytes are moved
  if (config_.vision) VisionWeights::load(*file_);
  plan_ = plan_engine(*file_, on_device(options, *backend_));
  if (!backend_->host_memory()) weights_ = std::make_unique<DeviceWeights>(*file_, *backend_);
  start(options, weights_ ? *weights_ : *file_);
}

Engine::Engine(const DummyModel& model, const EngineOptions& options, std::unique_ptr<Backend> backend)
    : owner_(getpid()), config_(model.config), backend_(std::move(backend)) {
  if (!backend_) backend_ = make_backend_for(device_of(model, options), options);
  backend_->enter_thread();
  plan_ = plan_engine(model, on_device(options, *backend_));
  WeightOptions weights = model.weights;
  weights.layout = backend_->matrix_layout();
  weights_ = std::make_unique<DummyWeights>(config_, weights, *backend_);
  start(options, *weights_);
}

// Everything but the weights, as planned.
void Engine::start(const EngineOptions& options, const WeightSource& source) {
  backend_name_ = backend_->name();
  max_waiting_ = option("max_waiting", options.max_waiting, int64_t(1) << 30, kDefaultMaxWaiting);
  limits_ = {config_.vocab_size, plan_.kv.max_model_len, config_.vision};
  backend_->reserve_scratch(plan_.scratch);
  GeneratorOptions generator;
  generator.max_batched_tokens = int(plan_.max_batched_tokens);
  generator.prefix_cache = options.prefix_cache;
  generator.zero_cache = !file_;
  generator_ = std::make_unique<Generator>(source, *backend_, plan_, generator);
  stats_ = generator_->stats();
  std::random_device entropy;
  seeds_.seed(uint64_t(entropy()) << 32 | entropy());
}

Engine::~Engine() {
  if (getpid() == owner_) {
    if (backend_) backend_->enter_thread();  // any thread may be the one that destroys
    return;
  }
  // In a forked child the pools' threads do not exist; joining them would wait for ever.
  static_cast<void>(generator_.release());
  static_cast<void>(weights_.release());
  static_cast<void>(backend_.release());
}

void Engine::check_usable() const {
  LLAMA4RT_CHECK(kInternal, getpid() == owner_, "this engine belongs to process ", owner_,
                 " and does not work in its forked child ", getpid(), "; open the engine file again there");
}

uint64_t Engine::submit(const Request& request) {
  check_usable();
  check_request(request, limits_);
  LLAMA4RT_CHECK(kRequest,
                 request.assume_computed == 0 ||
                     (!file_ && request.assume_computed > 0 &&
                      request.assume_computed < int64_t(request.prompt_token_ids.size()) &&
                      request.images.empty() && request.prompt_logprobs < 0 && !request.return_logits),
                 "assume_computed is ", request.assume_computed,
                 "; it is for random weights, text without prompt logprobs, and less than the prompt's ",
                 request.prompt_token_ids.size(), " tokens");
  const std::lock_guard lock(mutex_);
  LLAMA4RT_CHECK(kInternal, !closed_, "this engine is closed");
  const int64_t waiting = stats_.scheduler.waiting + submitted_sequences_;
  LLAMA4RT_CHECK(kRequest, waiting + request.n <= max_waiting_, "queue full: ", waiting,
                 " sequences are waiting and n is ", request.n, "; max_waiting is ", max_waiting_);
  const uint64_t id = next_id_++;
  const uint64_t seed = request.seed ? uint64_t(*request.seed) : seeds_();
  inbox_.emplace_back(Submission{id, request, seed});
  submitted_sequences_ += request.n;
  return id;
}

void Engine::abort(uint64_t id) { post_ending(id, -1, "abort"); }

void Engine::abort_sequence(uint64_t id, int64_t index, const std::string& reason) {
  LLAMA4RT_CHECK(kRequest, reason == "stop" || reason == "abort", "reason is \"", reason,
                 "\"; it must be \"stop\" or \"abort\"");
  if (index >= 0 && index <= INT32_MAX) post_ending(id, int(index), reason);
}

void Engine::post_ending(uint64_t id, int index, const std::string& reason) {
  check_usable();
  const std::lock_guard lock(mutex_);
  if (!closed_ && id < next_id_) inbox_.emplace_back(Ending{id, index, reason});
}

bool Engine::has_work() const {
  check_usable();
  const std::lock_guard lock(mutex_);
  return !closed_ && (busy_ || !inbox_.empty());
}

EngineStats Engine::stats() const {
  check_usable();
  const std::lock_guard lock(mutex_);
  EngineStats stats = stats_;
  stats.scheduler.waiting += submitted_sequences_;
  return stats;
}

std::vector<TokenEvent> Engine::step() {
  check_usable();
  const std::lock_guard turn(step_mutex_);
  std::vector<std::variant<Submission, Ending>> inbox;
  {
    const std::lock_guard lock(mutex_);
    LLAMA4RT_CHECK(kInternal, !closed_, "this engine is closed");
    inbox.swap(inbox_);
    // The submitted ones keep counting as waiting until the step's statistics include them.
  }
  int64_t taken = 0;
  for (auto& item : inbox) {
    if (auto* submission = std::get_if<Submission>(&item)) {
      generator_->add(submission->id, submission->request, submission->seed);
      taken += submission->request.n;
    } else {
      const auto& ending = std::get<Ending>(item);
      generator_->end(ending.id, ending.index, ending.reason);
    }
  }
  backend_->enter_thread();
  std::vector<TokenEvent> events = generator_->step();
  const EngineStats stats = generator_->stats();
  const std::lock_guard lock(mutex_);
  submitted_sequences_ -= taken;
  stats_ = stats;
  busy_ = generator_->has_work();
  return events;
}

std::vector<float> Engine::encode_image(std::span<const uint8_t> tiles) {
  check_usable();
  const std::lock_guard turn(step_mutex_);
  LLAMA4RT_CHECK(kInternal, generator_ != nullptr, "this engine is closed");
  backend_->enter_thread();
  return generator_->encode_image(tiles);
}

void Engine::close() {
  check_usable();
  const std::lock_guard turn(step_mutex_);
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    inbox_.clear();
  }
  if (backend_) backend_->enter_thread();
  generator_.reset();
  weights_.reset();
  backend_.reset();
}

}  // namespace llama4rt
