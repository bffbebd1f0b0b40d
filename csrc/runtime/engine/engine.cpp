#include "runtime/engine/engine.h"

#include <unistd.h>

#include <algorithm>
#include <new>
#include <type_traits>
#include <utility>

#include "base/device_lost.h"
#include "model/adapter.h"
#include "model/shape_source.h"
#include "ops/kv_formats.h"
#include "runtime/engine/draft_engine.h"
#include "runtime/plan/memory_limit.h"
#include "runtime/runner/device_weights.h"
#include "runtime/runner/kv_cache.h"
#include "runtime/speculation/ngram_drafter.h"

namespace llama4rt {

KvKind auto_kv_kind(const std::string& device, int64_t head_dim) {
  if (device == "reference") return KvKind::kF32;
  // As many bits as bf16, more exact, and products of integers are faster (docs/numerics.md).
  if (device == "cpu" && kv_refusal(KvKind::kInt16, head_dim, false).empty()) return KvKind::kInt16;
  return KvKind::kBF16;
}

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

// The cache format that `name` means. option: what the caller wrote it into.
KvKind kv_kind(const char* option, const std::string& name, const std::string& device, int64_t head_dim) {
  if (name == "auto") return auto_kv_kind(device, head_dim);
  std::string names = "\"auto\"";
  for (const KvFormat& format : kKvFormats) {
    if (name == format.name || name == format.long_name) {
      const std::string refusal = kv_refusal(format.kind, head_dim, device_traits(device).gpu_kv);
      LLAMA4RT_CHECK(kConfig, refusal.empty(), option, " ", refusal);
      return format.kind;
    }
    names += error_text(&format == &kKvFormats.back() ? " or \"" : ", \"", format.name, "\"");
  }
  throw Error(ErrorKind::kConfig, error_text(option, " is \"", name, "\"; it must be ", names));
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
      !traits.has_own_memory ? kDefaultMaxBatchedTokens : kDefaultMaxBatchedTokensOnDevice;
  plan.max_batched_tokens = tokens == 0 ? std::max(default_tokens, plan.max_num_seqs) : tokens;
  plan.max_model_len = options.max_model_len;
  plan.block_size = int(option("block_size", options.block_size, 1024, 16));
  plan.kv_global = kv_kind("kv_cache_dtype", options.kv_cache_dtype, device, config.head_dim);
  plan.kv_local = plan.kv_global;
  if (!options.kv_cache_dtype_local.empty())
    plan.kv_local = kv_kind("kv_cache_dtype_local", options.kv_cache_dtype_local, device, config.head_dim);
  plan.memory = option("gpu_memory", options.memory_bytes, int64_t(1) << 50, 0);
  // On a CPU, pages are backed when first written, but one day all of them may be: leave half to everything
  // else.
  plan.kv_cache_bytes = option("kv_cache_memory", options.kv_cache_bytes, int64_t(1) << 50,
                               !traits.has_own_memory && plan.memory == 0
                                   ? std::min(kDefaultKvCacheBytes, available_memory() / 2)
                                   : 0);
  plan.image_bytes = option("image_cache_memory", options.image_cache_bytes, int64_t(1) << 50,
                            !traits.has_own_memory ? std::min(kDefaultImageCacheBytes, available_memory() / 8)
                                                   : kDefaultImageCacheBytes);
  if (!config.vision) plan.image_bytes = 0;
  plan.adapter_bytes = option("adapter_memory", options.adapter_bytes, int64_t(1) << 50, 0);
  LLAMA4RT_CHECK(
      kConfig, plan.adapter_bytes == 0 || !traits.has_own_memory, "adapter_memory is ", plan.adapter_bytes,
      "; ", device,
      " has no kernels for adapters of requests: merge them with `llama4rt build --lora`, or use a CPU");
  return plan;
}

std::unique_ptr<Device> device_for(const std::string& name, const EngineOptions& options) {
  return make_device(name, {.num_threads = int(option("num_threads", options.num_threads, 1024, 0)),
                            .activations = activations_by_name(options.activations),
                            .prefill = prefill_kernels_by_name(options.cuda_prefill),
                            .run_ahead = options.cuda_run_ahead,
                            .overlap_kernels = options.cuda_overlap});
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

// plan(weights, weight_bytes, traits, options) of a model on the device its options name.
template <class Model, class Plan>
auto planned(const Model& model, const EngineOptions& options, const Plan& plan) {
  const std::string device = device_of(model, options);
  const DeviceTraits traits = device_traits(device);
  const PlanOptions with = plan_options(config_of(model), options, device);
  if constexpr (std::is_same_v<Model, EngineFile>)
    return plan(model, weight_bytes(model, device), traits, with);
  else {
    WeightOptions weights = model.weights;
    weights.layout = traits.layout;
    return plan(ShapeSource(model.config, weights), weight_bytes(model, device), traits, with);
  }
}

// Whoever guesses what comes next; null: nobody. `plan` of the model itself.
std::unique_ptr<Drafter> make_drafter(const EngineOptions& options, Device& device, const ModelConfig& config,
                                      const MemoryPlan& plan) {
  const std::string& name = options.speculate;
  if (name == "off") return nullptr;
  LLAMA4RT_CHECK(kConfig, !device.traits().has_own_memory, "speculate is \"", name,
                 "\"; a GPU does not speculate yet: leave it \"off\" there");
  if (name == "auto" || name == "ngram") return std::make_unique<NgramDrafter>();
  LLAMA4RT_CHECK(kConfig, name.find_first_of("./") != std::string::npos, "speculate is \"", name,
                 "\"; it must be \"off\", \"auto\", \"ngram\" or the path of a draft model's engine file");
  auto file = std::make_unique<EngineFile>(name);
  file->require_layout(device.traits().layout, device.name());
  EngineOptions own = options;
  own.device = device.name();
  own.max_num_seqs = plan.max_num_seqs;
  own.max_batched_tokens = plan.max_batched_tokens;
  own.max_model_len = std::min(plan.kv.max_model_len, file->config().max_position_embeddings);
  own.kv_cache_bytes = options.kv_cache_bytes > 0 ? options.kv_cache_bytes : plan.kv.bytes() / 4;
  own.image_cache_bytes = 0;
  own.memory_bytes = 0;
  const MemoryPlan drafts = plan_engine(*file, own);
  return std::make_unique<DraftEngine>(std::move(file), drafts, device, config);
}

// The options with what this very device has, where the caller set no limit.
EngineOptions on_device(EngineOptions options, const Device& device) {
  options.device = device.name();
  if (options.memory_bytes == 0 && device.traits().has_own_memory)
    options.memory_bytes = device.free_memory();
  return options;
}

}  // namespace

MemoryPlan plan_engine(const EngineFile& file, const EngineOptions& options) {
  return planned(file, options, plan_memory);
}
MemoryPlan plan_engine(const DummyModel& model, const EngineOptions& options) {
  return planned(model, options, plan_memory);
}
int64_t longest_context(const EngineFile& file, const EngineOptions& options) {
  return planned(file, options, longest_context_within);
}
int64_t longest_context(const DummyModel& model, const EngineOptions& options) {
  return planned(model, options, longest_context_within);
}

Engine::Engine(const std::string& path, const EngineOptions& options, std::unique_ptr<Device> device)
    : owner_(getpid()),
      file_(std::make_unique<EngineFile>(path)),
      config_(file_->config()),
      device_(std::move(device)) {
  if (!device_) device_ = device_for(device_of(*file_, options), options);
  if (options.observer) device_ = std::make_unique<ObservingDevice>(std::move(device_), *options.observer);
  device_->make_current();
  file_->require_layout(device_->traits().layout, device_->name());
  Llama4Weights::load(*file_);  // what is missing is said before gigabytes are moved
  if (config_.vision) VisionWeights::load(*file_);
  plan_ = plan_engine(*file_, on_device(options, *device_));
  if (device_->traits().has_own_memory) weights_ = std::make_unique<DeviceWeights>(*file_, *device_);
  start(options, weights());
}

Engine::Engine(const DummyModel& model, const EngineOptions& options, std::unique_ptr<Device> device)
    : owner_(getpid()), config_(model.config), device_(std::move(device)) {
  if (!device_) device_ = device_for(device_of(model, options), options);
  if (options.observer) device_ = std::make_unique<ObservingDevice>(std::move(device_), *options.observer);
  device_->make_current();
  plan_ = plan_engine(model, on_device(options, *device_));
  WeightOptions weights = model.weights;
  weights.layout = device_->traits().layout;
  weights_ = std::make_unique<DummyWeights>(config_, weights, *device_);
  start(options, *weights_);
}

// Everything but the weights, as planned.
void Engine::start(const EngineOptions& options, const WeightSource& source) {
  device_name_ = device_->name();
  max_waiting_ = option("max_waiting", options.max_waiting, int64_t(1) << 30, kDefaultMaxWaiting);
  limits_ = {config_.vocab_size,
             plan_.kv.max_model_len,
             config_.vision,
             {config_.eos_token_ids.begin(), config_.eos_token_ids.end()}};
  device_->reserve_scratch(plan_.scratch);
  if (!options.kv_store.empty()) open_store(options);
  loop_ = std::make_unique<StepLoop>(
      source, *device_, plan_,
      StepLoopOptions{.prefix_cache = options.prefix_cache,
                      .zero_cache = !file_,
                      .always_guess = options.always_guess || options.speculate == "ngram",
                      .drafter = make_drafter(options, *device_, config_, plan_),
                      .store = store_.get()});
  stats_ = loop_->stats();
  std::random_device entropy;
  seeds_.seed(uint64_t(entropy()) << 32 | entropy());
}

Engine::~Engine() {
  if (getpid() == owner_) {
    if (device_) device_->make_current();  // any thread may be the one that destroys
    return;
  }
  // In a forked child the pools' threads do not exist; joining them would wait for ever.
  static_cast<void>(loop_.release());
  static_cast<void>(new std::shared_ptr<KvStore>(std::move(store_)));
  static_cast<void>(weights_.release());
  static_cast<void>(device_.release());
}

void Engine::check_usable() const {
  LLAMA4RT_CHECK(kInternal, getpid() == owner_, "this engine belongs to process ", owner_,
                 " and does not work in its forked child ", getpid(), "; open the engine file again there");
}

uint64_t Engine::submit(Request request) {
  check_usable();
  if (file_) file_->check_unchanged();
  check_request(request, limits_);
  LLAMA4RT_CHECK(kRequest,
                 request.assume_computed == 0 ||
                     (!file_ && request.assume_computed > 0 &&
                      request.assume_computed < int64_t(request.prompt_token_ids.size()) &&
                      request.images.empty() && request.prompt_logprobs < 0 && request.generates()),
                 "assume_computed is ", request.assume_computed,
                 "; it is for random weights, text without prompt logprobs, and less than the prompt's ",
                 request.prompt_token_ids.size(), " tokens");
  if (request.adapter) check_adapter(*request.adapter);
  const std::lock_guard lock(mutex_);
  LLAMA4RT_CHECK(kInternal, !closed_, "this engine is closed");
  const int64_t waiting = stats_.scheduler.waiting + submitted_sequences_;
  LLAMA4RT_CHECK(kRequest, waiting + request.n <= max_waiting_, "queue full: ", waiting,
                 " sequences are waiting and n is ", request.n, "; max_waiting is ", max_waiting_);
  const uint64_t id = next_id_++;
  const uint64_t seed = request.seed ? uint64_t(*request.seed) : seeds_();
  submitted_sequences_ += request.n;
  inbox_.emplace_back(Submission{id, std::move(request), seed});
  return id;
}

void Engine::check_adapter(const Adapter& adapter) const {
  LLAMA4RT_CHECK(kRequest, !plan_.has_own_memory, "a request names an adapter; ", device_name_,
                 " has no kernels for them: merge it with `llama4rt build --lora`, or use a CPU");
  LLAMA4RT_CHECK(kRequest, adapter.fits(config_), "a request's adapter was made for a model of other sizes");
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

void Engine::hold(uint64_t id, bool held) {
  check_usable();
  const std::lock_guard lock(mutex_);
  if (!closed_ && id < next_id_) inbox_.emplace_back(Hold{id, held});
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
  LLAMA4RT_CHECK(kInternal, given_up_.empty(), "this engine ", given_up_, " and must be opened anew");
  try {
    return take_step();
  } catch (const std::bad_alloc&) {
    given_up_ = "has run out of memory";
    throw;
  } catch (const DeviceLost& e) {
    given_up_ = error_text("has lost its device (", e.what(), ")");
    throw;
  }
}

std::vector<TokenEvent> Engine::take_step() {
  std::vector<std::variant<Submission, Ending, Hold>> inbox;
  {
    const std::lock_guard lock(mutex_);
    LLAMA4RT_CHECK(kInternal, !closed_, "this engine is closed");
    inbox.swap(inbox_);
    // The submitted ones keep counting as waiting until the step's statistics include them.
  }
  int64_t taken = 0;
  for (auto& item : inbox) {
    if (auto* submission = std::get_if<Submission>(&item)) {
      taken += submission->request.n;
      loop_->add(submission->id, std::move(submission->request), submission->seed);
    } else if (const auto* hold = std::get_if<Hold>(&item)) {
      loop_->hold(hold->id, hold->held);
    } else {
      const auto& ending = std::get<Ending>(item);
      loop_->end(ending.id, ending.index, ending.reason);
    }
  }
  device_->make_current();
  std::vector<TokenEvent> events = loop_->step();
  const EngineStats stats = loop_->stats();
  {
    const std::lock_guard lock(mutex_);
    submitted_sequences_ -= taken;
    stats_ = stats;
    busy_ = loop_->has_work();
  }
  if (file_) file_->check_unchanged();  // nothing that was computed from other bytes is handed out
  return events;
}

std::vector<float> Engine::encode_image(std::span<const uint8_t> tiles) {
  check_usable();
  const std::lock_guard turn(step_mutex_);
  LLAMA4RT_CHECK(kInternal, loop_ != nullptr, "this engine is closed");
  device_->make_current();
  return loop_->encode_image(tiles);
}

void Engine::close() {
  check_usable();
  const std::lock_guard turn(step_mutex_);
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    inbox_.clear();
  }
  if (device_) device_->make_current();
  if (loop_ && !given_up_.empty()) loop_->distrust_blocks();
  loop_.reset();
  close_store();
  weights_.reset();
  device_.reset();
}

}  // namespace llama4rt
