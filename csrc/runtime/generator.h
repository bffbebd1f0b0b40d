// Generator: the wheel that turns requests into tokens. One step: schedule, build the batch, run the model,
// sample, report. For one thread at a time; Engine (engine.h) adds the thread-safe door and the checks of
// what callers may ask.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "format/weight_source.h"
#include "model/llama4.h"
#include "model/weights.h"
#include "ops/backend.h"
#include "runtime/batch_builder.h"
#include "runtime/device_sampler.h"
#include "runtime/image_encoder.h"
#include "runtime/kv_cache.h"
#include "runtime/memory_plan.h"
#include "runtime/request.h"
#include "runtime/sampler.h"
#include "runtime/scheduler.h"

namespace llama4rt {

struct GeneratorOptions {
  int max_batched_tokens = 512;
  bool prefix_cache = true;
  bool zero_cache = false;  // for Request::assume_computed
};

struct GroupStats {
  int64_t total = 0, free = 0, used = 0;  // blocks; free + used = total
  int64_t cached = 0;                     // free ones whose contents the prefix cache may still reuse
};

struct EngineStats {
  SchedulerStats scheduler;
  int block_size = 0;
  GroupStats global, local;
  int64_t global_block_bytes = 0, local_block_bytes = 0;  // of all layers of the group
  ImageStats images;
  int64_t prompt_tokens = 0, generated_tokens = 0;  // computed and chosen since the start
  double prompt_tokens_per_second = 0;              // over the latest steps
  double generated_tokens_per_second = 0;
  int64_t steps = 0;        // since the start
  int64_t steps_ahead = 0;  // of those: submitted before the tokens of the one before were known
  int64_t weight_bytes = 0, kv_cache_bytes = 0, workspace_bytes = 0;
  std::vector<std::vector<int64_t>> expert_tokens;  // see Llama4::expert_tokens
};

class Generator {
 public:
  // `source` and `backend` outlive the generator.
  Generator(const WeightSource& source, Backend& backend, const MemoryPlan& plan,
            const GeneratorOptions& options);
  ~Generator();

  // The request has been checked. Sequences of n > 1 share its seed.
  void add(uint64_t id, const Request& request, uint64_t seed);
  // Ends one sequence, or all of them when index < 0; unknown and finished ones are ignored.
  void end(uint64_t id, int index, const std::string& reason);
  // One turn of the wheel: everything that happened since the last call. Never throws for what a single
  // request causes: its sequences end with "error" and the others go on. On a device that works behind the
  // host's back the next step may be under way when it returns.
  std::vector<TokenEvent> step();

  bool has_work() const { return scheduler_.has_work() || !encoding_.empty() || !events_.empty(); }
  // The vision tower alone: F32 [num_tiles * tokens_per_tile, H] of tiles uint8 [num_tiles, S, S, 3].
  std::vector<float> encode_image(std::span<const uint8_t> tiles);
  EngineStats stats() const;

 private:
  struct RequestState;
  struct Generation : Sequence {  // one of the n sequences of a request
    RequestState* request = nullptr;
    int index = 0;
    int64_t rows_wanted = 0;  // prompt positions whose logits the caller wants: the first so many
    int64_t rows_done = 0;
    std::vector<TokenLogprobs> prompt_logprobs;
    LogitRows logits;       // of this step's slice
    bool reported = false;  // has had its first event
  };
  struct RequestState {
    uint64_t id = 0;
    Request request;
    uint64_t seed = 0;
    std::vector<int32_t> end_tokens;
    std::vector<std::unique_ptr<Generation>> sequences;
    std::vector<ImageEncoder::Entry*> images;  // held until the request ends: preemption may need them again
    bool scheduled = false;                    // its sequences are with the scheduler
    int live = 0;
  };
  struct RowResult {
    bool finite = true;
    std::string error;            // why there is no token, beside logits that are not finite
    SampledToken sampled;         // of a row that decides a token
    TokenLogprobs of_next_token;  // of a prompt row
  };
  // A step under way, whose tokens the device chooses: one row for each output.
  struct Flight {
    std::vector<Slice> slices;
    std::vector<OutputRow> outputs;
    DeviceSampler::Run sampling;
  };
  struct RecentStep {
    double seconds = 0;
    int64_t prompt_tokens = 0, generated_tokens = 0;
  };

  static Generation& generation(const Slice& slice) { return static_cast<Generation&>(*slice.sequence); }
  void encode_images();
  bool encode_images_of(RequestState& state, int64_t& tiles);
  void enter_schedule(RequestState& state);
  void release_images(RequestState& state);
  void run(std::span<const Slice> slices);
  void commit(std::span<const Slice> slices);
  Tensor on_host(const Tensor& logits);
  void take_rows(std::span<const Slice> slices, int64_t begin, const Tensor& logits);
  bool sample_rows(std::span<const Slice> slices, int64_t begin, const Tensor& logits);
  std::optional<Flight> take_off(std::span<const Slice> slices, const Tensor& logits, int64_t num_unknown);
  std::optional<Flight> fly_ahead(const Flight& now);
  void land();
  static bool host_reads(const Generation& g, int64_t position);
  static SampleRequest sample_request(const Generation& g);
  static TokenMask* mask_of(const Generation& g);
  void choose_outputs(std::span<const Slice> slices);
  void read_rows(std::span<const Slice> slices, int64_t begin, const Tensor& logits);
  RowResult read_row(Sampler& sampler, std::span<float> row, const Slice& slice, int64_t position) const;
  void use_row(const Slice& slice, int64_t position, std::span<const float> row, RowResult& result);
  void accept(Generation& g, SampledToken& sampled);
  void report_logits(Generation& g);
  void report_progress(const Slice& slice);
  TokenEvent& report(Generation& g);
  void finish(Generation& g, const std::string& reason, const std::string& error = "");
  void conclude(Generation& g, TokenEvent& event, const std::string& reason);
  void fail_running(const std::string& error);
  void drop_finished_requests();
  void count_step(std::span<const Slice> slices, double seconds, int64_t chosen_before);

  const ModelConfig& config_;
  Backend& backend_;
  const KvCachePlan plan_;
  const Llama4Weights weights_;
  const StepLimits limits_;
  KvCache kv_;
  Llama4 model_;
  Scheduler scheduler_;
  BatchBuilder builder_;
  ThreadPool pool_;                        // samples rows side by side; starts its threads when first needed
  std::vector<Sampler> samplers_;          // one per member of the pool
  std::unique_ptr<ImageEncoder> encoder_;  // null: a text model
  std::map<uint64_t, RequestState> requests_;
  std::deque<uint64_t> encoding_;      // requests whose pictures are not all encoded, oldest first
  int64_t scheduled_with_images_ = 0;  // requests
  uint64_t next_arrival_ = 0;
  std::optional<Flight> flight_;
  std::vector<OutputRow> outputs_;  // of the step that is built
  std::vector<RowResult> results_;
  std::unique_ptr<DeviceSampler> device_sampler_;  // null: the backend leaves sampling to the host
  std::vector<float> host_logits_;                 // rows of a device with memory of its own
  std::vector<TokenEvent> events_;
  bool requests_may_be_finished_ = false;
  EngineStats totals_;
  std::array<RecentStep, 64> recent_;
  size_t num_steps_ = 0;
  std::chrono::steady_clock::time_point step_began_;  // of the step under way
};

}  // namespace llama4rt
