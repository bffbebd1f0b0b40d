// Drafter: guesses what comes next in sequences. Whoever guesses, no token changes: a guess is computed beside the
// last known token, each position is then sampled as if nobody had guessed, and a guess counts while it equals what
// was sampled. A drafter can therefore only be slow, never wrong.
//
// Several kinds fit: text that repeats itself (NgramDrafter), a smaller model, and heads that read the model's own
// states; the last would need those rows handed over with Draft.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/sequences/sequence.h"

namespace llama4rt {

// Most guesses for a sequence in one step.
inline constexpr int kMostGuesses = 16;
// How good a guess looks to its drafter: classes 0..kEvidenceClasses - 1, of which Acceptance learns how often each
// is right.
inline constexpr int kEvidenceClasses = 8;

// What one sequence wants, and what it gets.
struct Draft {
  const Sequence* sequence = nullptr;
  std::span<const int64_t> prediction{};  // what the caller expects the output to be like; may be empty
  int most = 0;                           // guesses wanted, at most kMostGuesses
  std::vector<int32_t> tokens;            // the guesses, after the last known token
  std::vector<uint8_t> evidence;          // [tokens] the class of each
};

class Drafter {
 public:
  virtual ~Drafter() = default;

  // Fills tokens and evidence of every draft; none for a sequence of which it knows nothing.
  virtual void propose(std::span<Draft> drafts) = 0;
  // The sequence has ended.
  virtual void forget(const Sequence& sequence) = 0;
  // Seconds that one more guess for all sequences of a step takes; 0: nothing that counts, or not known yet.
  virtual double seconds_per_guess() const { return 0; }
  // Seconds that the latest propose() took; 0: nothing that counts.
  virtual double seconds_taken() const { return 0; }
  // Whether to guess costs so little that it may be done for learning alone.
  virtual bool is_free() const { return true; }
};

}  // namespace llama4rt
