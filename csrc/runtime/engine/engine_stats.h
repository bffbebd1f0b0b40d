// EngineStats: the numbers an engine says of itself, and the counters behind those that are not kept
// elsewhere.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/runner/image_encoder.h"
#include "runtime/sequences/scheduler.h"
#include "runtime/speculation/speculator.h"

namespace llama4rt {

struct GroupStats {
  int64_t total = 0, free = 0, used = 0;  // blocks; free + used = total
  int64_t cached = 0;                     // free ones whose contents the prefix cache may still reuse
};
GroupStats group_stats(const BlockAllocator& blocks);

struct EngineStats {
  SchedulerStats scheduler;
  SpeculationStats speculation;
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
  int64_t outgoing_blocks = 0;                      // that wait for room in the store's queue
  std::vector<std::vector<int64_t>> expert_tokens;  // see Llama4::expert_tokens
  std::vector<int64_t> expert_reads;
};

// Counts steps and their tokens, and the time between them.
class StepCounter {
 public:
  // A step begins now, unless one is in flight: its time began when the one before it ended.
  void begin() { began_ = Clock::now(); }
  // The step of these chunks is done; `generated` tokens were chosen in it.
  void end(std::span<const Chunk> chunks, int64_t generated);
  void count_ahead() { ++ahead_; }
  // Fills in what is counted here.
  void add_to(EngineStats& stats) const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Recent {
    double seconds = 0;
    int64_t prompt_tokens = 0, generated_tokens = 0;
  };
  std::array<Recent, 64> recent_;
  int64_t steps_ = 0, ahead_ = 0, prompt_tokens_ = 0, generated_tokens_ = 0;
  Clock::time_point began_ = Clock::now();
};

}  // namespace llama4rt
