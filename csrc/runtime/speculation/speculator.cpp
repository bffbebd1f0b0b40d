#include "runtime/speculation/speculator.h"

#include <algorithm>
#include <utility>

namespace llama4rt {
namespace {

// What guesses of each class are worth before any was seen: text of which nothing is known repeats itself little.
constexpr double kFirstChance[kEvidenceClasses] = {0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85};
constexpr double kFirstWeight = 8;     // of those, in the table of all sequences
constexpr double kCommonWeight = 3;    // of that table, in a sequence's
constexpr double kShareWeight = 0.02;  // of a guess in the share of right ones
constexpr int64_t kTrialSteps = 64;
constexpr double kSequenceMemory = 24;  // guesses of a class; texts change

}  // namespace

void Speculator::choose(Scheduler& scheduler, std::span<const Chunk> chunks, std::span<const Wish> wishes) {
  offers_.clear();
  step_ = {};
  drafting_ = 0;
  StepRowsOf plain;
  bool decodes = true;
  for (const Chunk& chunk : chunks) {
    decodes = decodes && chunk.count == 1;
    ++plain.sequences;
    ++plain.rows;
    plain.context += double(chunk.end());
  }
  if (wishes.empty() || (!decodes && !always_)) return;
  ask(chunks, wishes, always_ || drafter_->is_free() ? kMostGuesses : depth_that_pays(plain));
  if (!always_) choose_numbers(plain);
  for (Offer& offer : offers_) {
    const std::span<const int32_t> guesses(offer.draft.tokens);
    offer.used = offer.used == 0 ? 0 : scheduler.extend(offer.chunk, guesses.first(size_t(offer.used)));
    plain.rows += offer.used;
  }
  if (decodes) step_ = plain;
}

// How many guesses of each sequence are worth asking a drafter for that takes time itself. Now and then it is asked
// although it did not pay: texts change.
int Speculator::depth_that_pays(const StepRowsOf& plain) {
  if (!cost_.knows_plain_steps()) return 0;
  double tokens = 1, right = 1, best = kLeastGain / cost_.seconds(plain);
  int depth = 0;
  StepRowsOf step = plain;
  for (int k = 1; k <= kMostGuesses; ++k) {
    right *= share_;
    tokens += right;
    step.rows += plain.sequences;
    const double rate = tokens / (cost_.seconds(step) + k * drafter_->seconds_per_guess());
    if (rate <= best) continue;
    best = rate;
    depth = k;
  }
  if (depth == 0 && ++unasked_ % kTrialSteps == 0) return 2;
  return depth;
}

void Speculator::ask(std::span<const Chunk> chunks, std::span<const Wish> wishes, int depth) {
  std::vector<Draft> drafts;
  for (const Wish& wish : wishes)
    if (!wish.offer)
      drafts.push_back({chunks[wish.chunk].sequence, wish.prediction, std::min(wish.most, depth), {}, {}});
  if (depth > 0) drafter_->propose(drafts);
  drafting_ = depth > 0 ? drafter_->seconds_taken() : 0;
  auto draft = drafts.begin();
  for (const Wish& wish : wishes) {
    Offer& offer = offers_.emplace_back();
    if (wish.offer)
      offer.draft = Draft{.sequence = chunks[wish.chunk].sequence,
                          .most = wish.most,
                          .tokens = wish.offer->guesses,
                          .evidence = wish.offer->evidence};
    else
      offer.draft = std::move(*draft++);
    offer.chunk = wish.chunk;
    offer.length = offer.draft.sequence->length();
    offer.usable = std::min({wish.most, int(offer.draft.tokens.size()), kMostGuesses});
    offer.used = offer.usable;
    estimate(offer);
  }
}

void Speculator::estimate(Offer& offer) {
  const auto entry = acceptance_.try_emplace(offer.draft.sequence->arrival, kSequenceMemory).first;
  double all = 1;
  for (const uint8_t evidence : offer.draft.evidence) {
    const double common = of_all_.estimate(evidence, kFirstChance[evidence], kFirstWeight);
    all *= entry->second.estimate(evidence, common, kCommonWeight);
    offer.right.push_back(all);
  }
}

// Takes guesses of all sequences, the likeliest first: each is less likely than the one before it, so a sequence's
// come in their order.
void Speculator::choose_numbers(const StepRowsOf& plain) {
  struct Guess {
    double right;
    size_t offer;
  };
  std::vector<Guess> guesses;
  for (size_t o = 0; o < offers_.size(); ++o)
    for (int i = 0; i < offers_[o].usable; ++i) guesses.push_back({offers_[o].right[size_t(i)], o});
  std::stable_sort(guesses.begin(), guesses.end(),
                   [](const Guess& a, const Guess& b) { return a.right > b.right; });
  for (Offer& offer : offers_) offer.used = 0;
  if (!cost_.knows_plain_steps()) return;
  double tokens = plain.sequences;
  double best = kLeastGain * tokens / cost_.seconds(plain);
  size_t taken = 0;
  StepRowsOf step = plain;
  for (size_t g = 0; g < guesses.size(); ++g) {
    tokens += guesses[g].right;
    ++step.rows;
    const double rate = tokens / cost_.seconds(step);
    if (rate <= best) continue;
    best = rate;
    taken = g + 1;
  }
  for (size_t g = 0; g < taken; ++g) ++offers_[guesses[g].offer].used;
}

int Speculator::guesses_worth_a_mask(size_t wish) const {
  if (always_) return kMostGuesses;
  const int used = wish < offers_.size() ? offers_[wish].used : 0;
  return std::min(used + std::max(used, 1), kMostGuesses);
}

void Speculator::learn(double seconds) {
  int64_t tokens = 0;
  for (const Offer& offer : offers_) {
    const Sequence& s = *offer.draft.sequence;
    Acceptance& mine = acceptance_.at(s.arrival);
    const int64_t came = s.length() - offer.length;
    tokens += came;
    ++stats_.sequence_steps;
    stats_.sequence_steps_drafted += offer.used > 0;
    bool right = true;
    for (size_t i = 0; i < offer.draft.tokens.size() && right; ++i) {
      if (int64_t(i) < came) {
        right = offer.draft.tokens[i] == s.tokens[size_t(offer.length) + i];
        mine.observe(offer.draft.evidence[i], right);
        of_all_.observe(offer.draft.evidence[i], right);
        share_ += kShareWeight * ((right ? 1 : 0) - share_);
      } else {
        right = false;  // or not known
      }
      if (int(i) < offer.used) stats_.accepted[i] += right;
    }
    for (int i = 0; i < offer.used; ++i) ++stats_.drafted[size_t(i)];
  }
  stats_.tokens += tokens;
  if (step_.rows > 0) {
    StepRowsOf plain = step_;
    plain.rows = plain.sequences;
    if (step_.rows > step_.sequences && tokens > 0)
      stats_.seconds_saved += cost_.seconds(plain) * double(tokens) / double(step_.sequences) - seconds;
    cost_.observe(step_, seconds - drafting_);
  }
  offers_.clear();
  step_ = {};
}

void Speculator::forget(const Sequence& sequence) {
  drafter_->forget(sequence);
  acceptance_.erase(sequence.arrival);
}

}  // namespace llama4rt
