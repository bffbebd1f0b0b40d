// DraftEngine: guesses by a smaller model of the same vocabulary, from an engine file of its own. It draws each token
// with the very parameters and random number that the large model's token will be drawn with, so that equal
// distributions give equal tokens.
//
// It keeps a sequence beside each of the engine's, with blocks of a cache of its own, and computes what it has not
// seen when it is asked. When its blocks run out, the sequence that was asked for longest ago loses its own and is
// computed anew. Pictures it does not see: for such sequences it has no guesses. For devices on host memory.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "format/engine_file.h"
#include "ops/device.h"
#include "runtime/plan/memory_plan.h"
#include "runtime/runner/model_runner.h"
#include "runtime/sampling/sampler.h"
#include "runtime/sequences/block_allocator.h"
#include "runtime/speculation/drafter.h"

namespace llama4rt {

class DraftEngine final : public Drafter {
 public:
  // `device` outlives it and has no memory of its own. Throws kConfig when the vocabulary has another size.
  DraftEngine(std::unique_ptr<EngineFile> file, const MemoryPlan& plan, Device& device,
              const ModelConfig& target);

  void propose(std::span<Draft> drafts) override;
  void forget(const Sequence& sequence) override;
  bool is_free() const override { return false; }
  double seconds_per_guess() const override { return seconds_per_guess_; }
  double seconds_taken() const override { return seconds_taken_; }

 private:
  // What it knows of one of the engine's sequences.
  struct Mirror {
    Sequence sequence;  // its tokens, and behind them the guesses of the latest time
    size_t known = 0;   // tokens that are the engine's
    SamplingParams params;
    uint64_t turn = 0;  // when it was asked for last
  };
  struct Active {
    Draft* draft = nullptr;
    Mirror* mirror = nullptr;
    double chance = 1;  // that all guesses so far are right, as this model sees it
    bool done = false;
  };

  Mirror& follow(const Sequence& sequence);
  void rewind(Sequence& s, int64_t tokens);
  bool take_blocks(Mirror& mirror, int64_t end);
  bool free_longest_unasked();
  void free_blocks(Sequence& s, int64_t tokens);
  bool step(std::vector<Active>& active);
  void take_guess(Active& active, SampledToken sampled);
  int64_t chunk_begin(int64_t position) const;

  const std::unique_ptr<EngineFile> file_;
  const MemoryPlan plan_;
  ModelRunner runner_;
  BlockAllocator global_, local_;
  Sampler sampler_;
  std::unordered_map<uint64_t, Mirror> mirrors_;  // by arrival
  uint64_t turn_ = 0;
  double seconds_per_guess_ = 0, seconds_taken_ = 0;
};

}  // namespace llama4rt
