#include "runtime/speculation/ngram_drafter.h"

#include <algorithm>
#include <bit>

namespace llama4rt {

uint8_t NgramDrafter::evidence(int agreeing) {
  if (agreeing <= 4) return uint8_t(std::max(agreeing - 2, 0));
  return uint8_t(std::min(1 + int(std::bit_width(unsigned(agreeing - 3))), kEvidenceClasses - 1));
}

void NgramDrafter::propose(std::span<Draft> drafts) {
  for (Draft& draft : drafts) {
    const std::vector<int32_t>& tokens = draft.sequence->tokens;
    const auto [entry, is_new] = known_.try_emplace(draft.sequence->arrival);
    Known& known = entry->second;
    if (is_new && !draft.prediction.empty()) {
      std::vector<int32_t> prediction(draft.prediction.begin(), draft.prediction.end());
      prediction.push_back(SuffixIndex::kSeparator);
      known.index.append(prediction);
    }
    known.index.append(std::span(tokens).subspan(known.tokens));
    known.tokens = tokens.size();
    const int agreed = known.index.read_on(draft.most, draft.tokens);
    for (size_t i = 0; i < draft.tokens.size(); ++i) draft.evidence.push_back(evidence(agreed + int(i)));
  }
}

}  // namespace llama4rt
