#include "runtime/engine/engine_stats.h"

#include <algorithm>

namespace llama4rt {

GroupStats group_stats(const BlockAllocator& blocks) {
  return {blocks.num_blocks(), blocks.num_available(), blocks.num_used(), blocks.num_cached()};
}

void StepCounter::end(std::span<const Chunk> chunks, int64_t generated) {
  const Clock::time_point now = Clock::now();
  Recent& step = recent_[size_t(steps_) % recent_.size()];
  step = {std::chrono::duration<double>(now - began_).count(), 0, generated};
  for (const Chunk& chunk : chunks)
    step.prompt_tokens +=
        std::max<int64_t>(std::min(chunk.end(), chunk.sequence->num_prompt) - chunk.begin, 0);
  prompt_tokens_ += step.prompt_tokens;
  generated_tokens_ += generated;
  ++steps_;
}

void StepCounter::add_to(EngineStats& stats) const {
  stats.steps = steps_;
  stats.steps_ahead = ahead_;
  stats.prompt_tokens = prompt_tokens_;
  stats.generated_tokens = generated_tokens_;
  double seconds = 0;
  for (const Recent& step : recent_) {
    seconds += step.seconds;
    stats.prompt_tokens_per_second += double(step.prompt_tokens);
    stats.generated_tokens_per_second += double(step.generated_tokens);
  }
  if (seconds == 0) return;
  stats.prompt_tokens_per_second /= seconds;
  stats.generated_tokens_per_second /= seconds;
}

}  // namespace llama4rt
