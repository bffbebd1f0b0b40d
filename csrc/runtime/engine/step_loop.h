// StepLoop: turns requests into tokens, step by step: schedule, submit, commit, collect. For one thread at a
// time; Engine (engine.h) adds the thread-safe entrance and the checks of what callers may ask.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/sha256.h"
#include "format/weight_source.h"
#include "ops/device.h"
#include "runtime/engine/engine_stats.h"
#include "runtime/engine/image_queue.h"
#include "runtime/engine/reporter.h"
#include "runtime/engine/request_state.h"
#include "runtime/engine/store_traffic.h"
#include "runtime/plan/memory_plan.h"
#include "runtime/runner/model_runner.h"
#include "runtime/sequences/request.h"
#include "runtime/sequences/scheduler.h"
#include "runtime/speculation/speculator.h"

namespace llama4rt {

struct StepLoopOptions {
  bool prefix_cache = true;
  bool zero_cache = false;           // for Request::assume_computed
  bool always_guess = false;         // whatever it costs
  std::unique_ptr<Drafter> drafter;  // null: nobody guesses
  KvStore* store = nullptr;          // outlives the loop; null: blocks live in memory alone
};

class StepLoop {
 public:
  // `source` and `device` outlive the loop.
  StepLoop(const WeightSource& source, Device& device, const MemoryPlan& plan, StepLoopOptions options);
  ~StepLoop();

  // The request has been checked. Sequences of n > 1 share its seed.
  void add(uint64_t id, Request request, uint64_t seed);
  // Ends one sequence, or all of them when index < 0; unknown and finished ones are ignored.
  void end(uint64_t id, int index, const std::string& reason);
  // Takes a request out of the steps, or back in; unknown and finished ones are ignored.
  void hold(uint64_t id, bool held);
  // One step: everything that happened since the last call. Never throws for what a single request causes:
  // its sequences end with "error" and the others go on. On a device that runs asynchronously the next step
  // may be in flight when it returns. Throws std::bad_alloc when memory runs out outside the
  // runner; scheduler and caches may be between two states then, and the loop must not be used again.
  std::vector<TokenEvent> step();

  bool has_work() const {
    return scheduler_.has_work() || (image_queue_ && !image_queue_->empty()) || reporter_.has_events() ||
           (traffic_ && traffic_->has_work());
  }
  // The vision tower alone: F32 [num_tiles * tokens_per_tile, H] of tiles uint8 [num_tiles, S, S, 3].
  std::vector<float> encode_image(std::span<const uint8_t> tiles);
  EngineStats stats() const;
  // The caches may be between two states: nothing of them goes to the store any more.
  void distrust_blocks() {
    if (traffic_) traffic_->discard_outgoing();
  }

 private:
  using Step = ModelRunner::Step;

  void admit_ready_images();
  void enter_schedule(RequestState& state);
  void add_to_schedule(RequestState& state);
  PrefixCache::NodeId cache_root(const Adapter* adapter);
  void move_stored_blocks();
  std::optional<Step> submit_next();
  void guess(const std::vector<Chunk>& chunks);
  std::optional<Step> submit_ahead(const Step& now);
  void collect(Step& step);
  void commit(const Step& step);
  void keep_in_flight(std::optional<Step> next);
  void fail(const std::string& error);
  void drop_finished_requests();

  const int64_t max_model_len_;
  ModelRunner runner_;
  Scheduler scheduler_;
  Reporter reporter_;
  std::optional<Speculator> speculator_;         // where somebody guesses
  std::chrono::steady_clock::time_point began_;  // the step, where somebody guesses
  std::optional<ImageQueue> image_queue_;        // of models that see
  std::optional<StoreTraffic> traffic_;          // with a store
  std::map<uint64_t, RequestState> requests_;
  std::map<Sha256Digest, PrefixCache::NodeId> cache_roots_;  // by the content of an adapter
  uint64_t next_arrival_ = 0;
  std::optional<Step> in_flight_;  // submitted, not collected
  bool requests_may_be_finished_ = false;
  StepCounter counter_;
  EngineStats constant_stats_;
};

}  // namespace llama4rt
