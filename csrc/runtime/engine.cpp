#include "runtime/engine.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "runtime/kv_cache.h"
#include "runtime/memory_limit.h"

namespace llama4rt {
namespace {

constexpr int64_t kDefaultKvCacheBytes = int64_t(4) << 30;
constexpr int64_t kDefaultImageCacheBytes = int64_t(512) << 20;
constexpr int64_t kDefaultMaxNumSeqs = 16;
constexpr int64_t kDefaultMaxBatchedTokens = 512;
// A backstop for programs that never wait; servers set their own, smaller limit.
constexpr int64_t kDefaultMaxWaiting = 65'536;

int64_t option(const char* name, int64_t value, int64_t maximum, int64_t chosen) {
  LLAMA4RT_CHECK(kConfig, value >= 0 && value <= maximum, name, " is ", value, "; it must be in 1..", maximum,
                 ", or 0 to let the engine choose");
  return value == 0 ? chosen : value;
}

DType kv_dtype(const std::string& name, const Backend& backend) {
  if (name == "auto") return backend.name() == "reference" ? DType::kF32 : DType::kBF16;
  if (name == "bf16" || name == "bfloat16") return DType::kBF16;
  if (name == "f32" || name == "float32") return DType::kF32;
  throw Error(ErrorKind::kConfig,
              error_text("kv_cache_dtype is \"", name, "\"; it must be \"auto\", \"bf16\" or \"f32\""));
}

}  // namespace

Engine::Engine(const std::string& path, const EngineOptions& options, std::unique_ptr<Backend> backend)
    : owner_(getpid()), file_(std::make_unique<EngineFile>(path)), backend_(std::move(backend)) {
  const int64_t num_threads = option("num_threads", options.num_threads, 1024, 0);
  GeneratorOptions generator;
  const int64_t tokens = option("max_batched_tokens", options.max_batched_tokens, 65'536, 0);
  // Every running sequence gets a token in each step, so there are never more of them than tokens.
  const int64_t seqs = option("max_num_seqs", options.max_num_seqs, 4096,
                              tokens == 0 ? kDefaultMaxNumSeqs : std::min(kDefaultMaxNumSeqs, tokens));
  generator.max_num_seqs = int(seqs);
  max_num_seqs_ = seqs;
  generator.max_batched_tokens = int(tokens == 0 ? std::max(kDefaultMaxBatchedTokens, seqs) : tokens);
  generator.prefix_cache = options.prefix_cache;
  max_waiting_ = option("max_waiting", options.max_waiting, int64_t(1) << 30, kDefaultMaxWaiting);
  if (!backend_) backend_ = make_backend(options.device, int(num_threads));
  backend_name_ = backend_->name();

  KvCacheOptions kv;
  // Pages are backed when first written, but one day all of them may be: leave half to everything else.
  kv.budget_bytes = option("kv_cache_memory", options.kv_cache_bytes, int64_t(1) << 50,
                           std::min(kDefaultKvCacheBytes, available_memory() / 2));
  kv.block_size = int(option("block_size", options.block_size, 1024, 16));
  kv.dtype = kv_dtype(options.kv_cache_dtype, *backend_);
  kv.max_model_len = options.max_model_len;
  kv.max_num_seqs = generator.max_num_seqs;
  const KvCachePlan plan = plan_kv_cache(file_->config(), kv);
  generator.image_memory = option("image_cache_memory", options.image_cache_bytes, int64_t(1) << 50,
                                  std::min(kDefaultImageCacheBytes, available_memory() / 8));
  limits_ = {file_->config().vocab_size, plan.max_model_len, file_->config().vision};
  generator_ = std::make_unique<Generator>(*file_, *backend_, plan, generator);
  stats_ = generator_->stats();
  std::random_device entropy;
  seeds_.seed(uint64_t(entropy()) << 32 | entropy());
}

Engine::~Engine() {
  if (getpid() == owner_) return;
  // In a forked child the pools' threads do not exist; joining them would wait for ever.
  static_cast<void>(generator_.release());
  static_cast<void>(backend_.release());
}

void Engine::check_usable() const {
  LLAMA4RT_CHECK(kInternal, getpid() == owner_, "this engine belongs to process ", owner_,
                 " and does not work in its forked child ", getpid(), "; open the engine file again there");
}

uint64_t Engine::submit(const Request& request) {
  check_usable();
  check_request(request, limits_);
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
  generator_.reset();
  backend_.reset();
}

}  // namespace llama4rt
