// NgramDrafter: guesses that a text goes on as it did the last time its latest tokens occurred, in the prompt, in the
// output so far, or in what the caller predicted. Costs no model and no weights; of use where texts repeat: editing,
// extraction, summaries, code.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "runtime/speculation/drafter.h"
#include "runtime/speculation/suffix_index.h"

namespace llama4rt {

class NgramDrafter final : public Drafter {
 public:
  void propose(std::span<Draft> drafts) override;
  void forget(const Sequence& sequence) override { known_.erase(sequence.arrival); }

  // The class of a guess behind so many agreeing tokens: 2, 3, 4, 5..6, 7..10, 11..18, 19..34, more.
  static uint8_t evidence(int agreeing);

 private:
  struct Known {
    SuffixIndex index;
    size_t tokens = 0;  // of the sequence, in the index
  };
  std::unordered_map<uint64_t, Known> known_;  // by arrival
};

}  // namespace llama4rt
