// Engine: the entrance to an opened engine file. Checks what callers ask, takes requests and aborts from any
// thread, and lets one thread run steps (StepLoop). It speaks token ids; text is Python's business.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "format/engine_file.h"
#include "ops/device.h"
#include "ops/observe.h"
#include "runtime/engine/step_loop.h"
#include "runtime/plan/memory_plan.h"
#include "runtime/runner/dummy_weights.h"
#include "runtime/sequences/request.h"
#include "runtime/store/kv_store.h"

namespace llama4rt {

struct EngineOptions {  // 0: the engine chooses
  std::string device = "auto";
  int64_t num_threads = 0;
  int64_t max_model_len = 0;
  int64_t max_num_seqs = 0;
  int64_t kv_cache_bytes = 0;
  int64_t block_size = 16;
  int64_t max_batched_tokens = 0;
  std::string kv_cache_dtype = "auto";  // "auto" (see auto_kv_kind), or a name of ops/kv_formats.h
  std::string kv_cache_dtype_local;     // of the layers that attend in chunks; empty: the same
  std::string activations = "auto";     // "auto", "int8" or "int16": of a CPU, see ops/device.h
  std::string cuda_prefill = "auto";    // "auto" or "medium": of a GPU, as the next two
  bool cuda_run_ahead = true;
  bool cuda_overlap = true;
  bool prefix_cache = true;
  // "off"; "auto": guesses while that pays; "ngram": all that the text suggests, whatever it costs; else the path of
  // an engine file of the same vocabulary, whose model guesses while that pays.
  std::string speculate = "off";
  bool always_guess = false;  // whoever guesses: every guess is used, whatever it costs
  int64_t max_waiting = 0;
  int64_t image_cache_bytes = 0;  // encoded pictures, in use or kept
  int64_t adapter_bytes = 0;      // factors of adapters in memory at the same time; 0: none are taken
  int64_t memory_bytes = 0;       // of the device, for everything; 0 on a GPU: what is free
  std::string kv_store;        // a directory for blocks of keys and values; empty: they live in memory alone
  int64_t kv_store_bytes = 0;  // of the directory
  OpsObserver* observer = nullptr;  // sees every op (ops/observe.h); outlives the engine
};

// A model without a file: random weights of this shape (runtime/runner/dummy_weights.h).
struct DummyModel {
  ModelConfig config;
  WeightOptions weights;  // the layout is that of the device
};

// The cache format that "auto" means on a device ("reference", "cpu" or "cuda:N") for heads of this size.
KvKind auto_kv_kind(const std::string& device, int64_t head_dim);

// What an engine of these options would take of a device, whether there is one or not; device "auto" is the
// one the file was built for. Throws as Engine's constructor does.
MemoryPlan plan_engine(const EngineFile& file, const EngineOptions& options);
MemoryPlan plan_engine(const DummyModel& model, const EngineOptions& options);
// The longest max_model_len for max_num_seqs sequences at the same time within options.memory_bytes, or 0.
int64_t longest_context(const EngineFile& file, const EngineOptions& options);
int64_t longest_context(const DummyModel& model, const EngineOptions& options);

class Engine {
 public:
  // Throws kEngineFile or kConfig. `device` replaces options.device when given.
  Engine(const std::string& path, const EngineOptions& options, std::unique_ptr<Device> device = nullptr);
  Engine(const DummyModel& model, const EngineOptions& options, std::unique_ptr<Device> device = nullptr);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Any thread. Throws kRequest when the request is invalid, can never fit, or too many are waiting, and
  // kEngineFile when the file was written to since it was opened; so does step().
  uint64_t submit(Request request);
  void abort(uint64_t id);
  // reason: "stop" (the caller found a stop string) or "abort".
  void abort_sequence(uint64_t id, int64_t index, const std::string& reason);
  // A held request takes part in no step and gives its place and its blocks to others; its tokens are kept.
  void hold(uint64_t id, bool held);
  bool has_work() const;
  EngineStats stats() const;

  // One thread at a time (a second one waits). After std::bad_alloc the engine can only be closed.
  std::vector<TokenEvent> step();
  // --- with options.kv_store; the others throw kConfig
  std::optional<StoreStats> store_stats() const;  // empty without a store, and after close()
  std::vector<std::string> take_store_notes();    // any time
  // Waits until the blocks that the store has been given are on disk.
  void flush_store();
  // Writes the blocks of a text that the store has into a new file; returns how many. pictures: digest and tiles of
  // each, in the order of their patch tokens.
  int64_t export_blocks(const std::vector<int64_t>& tokens,
                        const std::vector<std::pair<std::string, int64_t>>& pictures,
                        const std::string& path);
  // Takes over such a file; returns how many of its blocks are this model's. The file is gone then.
  int64_t adopt_blocks(const std::string& path);
  // What the blocks of this engine belong to, and its engine file alone: in hex.
  std::string store_identity() const;
  std::string file_identity() const;

  // The vision tower alone; see StepLoop::encode_image. Waits for the step that is running.
  std::vector<float> encode_image(std::span<const uint8_t> tiles);
  // Frees blocks, workspace and threads; later calls that need them throw. Idempotent.
  void close();

  const ModelConfig& config() const { return config_; }
  int64_t max_model_len() const { return limits_.max_model_len; }
  int64_t max_num_seqs() const { return plan_.max_num_seqs; }
  const std::string& device_name() const { return device_name_; }
  const MemoryPlan& plan() const { return plan_; }
  const EngineFile* file() const { return file_.get(); }  // null for random weights
  // What ops are given, until close().
  const WeightSource& weights() const { return weights_ ? *weights_ : *file_; }
  Device& device() { return *device_; }

 private:
  struct Submission {
    uint64_t id;
    Request request;
    uint64_t seed;
  };
  struct Ending {
    uint64_t id;
    int index;  // < 0: all
    std::string reason;
  };
  struct Hold {
    uint64_t id;
    bool held;
  };

  void start(const EngineOptions& options, const WeightSource& source);
  void open_store(const EngineOptions& options);
  void close_store();
  std::shared_ptr<KvStore> store() const;  // null without one, and after close()
  std::shared_ptr<KvStore> needed_store() const;
  void check_usable() const;
  void check_adapter(const Adapter& adapter) const;
  std::vector<TokenEvent> take_step();
  void post_ending(uint64_t id, int index, const std::string& reason);

  const pid_t owner_;  // threads do not survive a fork, so neither does an engine
  const std::unique_ptr<EngineFile> file_;
  const ModelConfig config_;
  MemoryPlan plan_;
  std::string device_name_;
  RequestLimits limits_;
  int64_t max_waiting_ = 0;

  std::mutex step_mutex_;  // guards what follows
  std::unique_ptr<Device> device_;
  std::unique_ptr<WeightSource> weights_;  // in the device's memory; null where the file's mapping serves
  std::unique_ptr<StepLoop> loop_;
  std::string given_up_;  // why no step can be taken any more: one ended in the middle, or the device is lost

  mutable std::mutex mutex_;        // guards what follows; never held during a step
  std::shared_ptr<KvStore> store_;  // outlives the loop
  bool closed_ = false;
  bool busy_ = false;  // the loop has work
  std::vector<std::variant<Submission, Ending, Hold>> inbox_;
  int64_t submitted_sequences_ = 0;  // in the inbox
  uint64_t next_id_ = 1;
  std::mt19937_64 seeds_;
  EngineStats stats_;                    // after the latest step
  std::vector<std::string> last_notes_;  // of a store that is closed
};

}  // namespace llama4rt
