// Speculator: decides how many guesses each sequence of a step gets, and learns from what became of them.
//
// A guess costs a row of computation and gains a token when it and all before it are right. How often that is, is
// learnt for each sequence and class of evidence; what a row costs, from the steps' times (step_cost.h). Guesses are
// taken, the likeliest first, up to the number with the most tokens a second; none when that gains less than
// kLeastGain. Guesses that were not used teach as much: they are compared with what came.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "runtime/sequences/scheduler.h"
#include "runtime/sequences/token_mask.h"
#include "runtime/speculation/acceptance.h"
#include "runtime/speculation/drafter.h"
#include "runtime/speculation/step_cost.h"

namespace llama4rt {

struct SpeculationStats {
  int64_t sequence_steps = 0;                   // steps of decoding, counted for each sequence in them
  int64_t sequence_steps_drafted = 0;           // of those: with guesses
  int64_t tokens = 0;                           // that came out of them
  std::array<int64_t, kMostGuesses> drafted{};  // by place behind the last known token
  std::array<int64_t, kMostGuesses> accepted{};
  double seconds_saved = 0;  // beside one token a step, as far as the model of costs knows
};

class Speculator {
 public:
  static constexpr double kLeastGain = 1.03;

  // always: every guess is used that the drafter makes, whatever it costs.
  Speculator(std::unique_ptr<Drafter> drafter, const StepWork& work, bool always)
      : drafter_(std::move(drafter)), cost_(work), always_(always) {}

  // What may be guessed for a chunk of the scheduler's latest step.
  struct Wish {
    size_t chunk = 0;
    std::span<const int64_t> prediction{};
    int most = 0;
    const TokenMask::Offer* offer =
        nullptr;  // the guesses, in the drafter's place; the first `most` may be used
  };
  // Lengthens chunks of the latest schedule(). Called once for each step that is submitted with known tokens.
  void choose(Scheduler& scheduler, std::span<const Chunk> chunks, std::span<const Wish> wishes);
  // For how many guesses of the next step masks should be made ready: more than the latest choose() used.
  int guesses_worth_a_mask(size_t wish) const;
  // The step is done, so many seconds after choose(), and its tokens stand in its sequences.
  void learn(double seconds);
  // The sequence has ended.
  void forget(const Sequence& sequence);

  const SpeculationStats& stats() const { return stats_; }

 private:
  struct Offer {
    Draft draft;
    size_t chunk = 0;
    int64_t length = 0;         // of the sequence, before the step
    int usable = 0, used = 0;   // guesses
    std::vector<double> right;  // [guesses] chance of each and all before it
  };

  void ask(std::span<const Chunk> chunks, std::span<const Wish> wishes, int depth);
  void estimate(Offer& offer);
  void choose_numbers(const StepRowsOf& plain);
  int depth_that_pays(const StepRowsOf& plain);

  const std::unique_ptr<Drafter> drafter_;
  StepCost cost_;
  const bool always_;
  std::unordered_map<uint64_t, Acceptance> acceptance_;  // by arrival
  Acceptance of_all_{200};
  double share_ = 0.6;   // of guesses behind right ones: those that are right; of a drafter that is not free
  int64_t unasked_ = 0;  // steps since that drafter was asked
  double drafting_ = 0;  // seconds it took in the step in flight
  std::vector<Offer> offers_;  // of the step in flight
  StepRowsOf step_;            // that step; no rows: it also computes prompts and teaches nothing about time
  SpeculationStats stats_;
};

}  // namespace llama4rt
