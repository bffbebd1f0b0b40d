#include "runtime/speculation/suffix_index.h"

#include <algorithm>
#include <bit>

namespace llama4rt {

void SuffixIndex::append(std::span<const int32_t> tokens) {
  // Of what would be forgotten at once, nothing is taken.
  if (int64_t(tokens.size()) > kMostTokens) tokens = tokens.last(size_t(kMostTokens));
  if (size() + int64_t(tokens.size()) > 2 * kMostTokens)
    text_.erase(text_.begin(), text_.end() - std::min(size(), kMostTokens));
  const size_t known = chains_[0].next.size();
  const bool forgot = text_.size() < known;
  text_.insert(text_.end(), tokens.begin(), tokens.end());
  if (forgot || text_.size() > chains_[0].head.size()) return rebuild();
  for (auto end = int64_t(known) + 1; end <= size(); ++end) enter(end);
}

void SuffixIndex::rebuild() {
  for (Chain& chain : chains_) {
    chain.head.assign(std::bit_ceil(std::max<size_t>(2 * text_.size(), 1024)), -1);
    chain.next.clear();
  }
  for (int64_t end = 1; end <= size(); ++end) enter(end);
}

size_t SuffixIndex::slot(int chain, int64_t end) const {
  uint64_t hash = 0;
  for (int64_t i = end - kLengths[chain]; i < end; ++i)
    hash = (hash ^ uint32_t(text_[size_t(i)])) * 0x9e3779b97f4a7c15u;
  return size_t(hash >> 32) & (chains_[chain].head.size() - 1);
}

void SuffixIndex::enter(int64_t end) {
  for (int c = 0; c < 2; ++c) {
    Chain& chain = chains_[c];
    int32_t earlier = -1;
    if (end >= kLengths[c]) {
      int32_t& head = chain.head[slot(c, end)];
      earlier = head;
      head = int32_t(end);
    }
    chain.next.push_back(earlier);
  }
}

// Tokens before `end` that equal those at the end of the text.
int SuffixIndex::agreement(int64_t end) const {
  const int64_t longest = std::min<int64_t>(end, kLongestMatch);
  int64_t n = 0;
  while (n < longest && text_[size_t(end - 1 - n)] == text_[text_.size() - 1 - size_t(n)] &&
         text_[size_t(end - 1 - n)] != kSeparator)
    ++n;
  return int(n);
}

int SuffixIndex::read_on(int most, std::vector<int32_t>& out) const {
  int best = 0;
  int64_t from = 0;
  for (int c = 0; c < 2 && best < kLengths[0]; ++c) {
    if (size() < kLengths[c]) continue;
    int32_t end = chains_[c].next[text_.size() - 1];
    // A hash may be shared, so what it found is compared; an equal match further back tells nothing more.
    for (int places = 0; end > 0 && places < kMostPlaces && best < kLongestMatch; ++places) {
      const int agreed = agreement(end);
      if (agreed > best) {
        best = agreed;
        from = end;
      }
      end = chains_[c].next[size_t(end) - 1];
    }
  }
  if (best < kShortestMatch) return 0;
  const size_t before = out.size();
  for (int64_t i = from; int64_t(out.size() - before) < most; ++i) {
    const int32_t token = i < size() ? text_[size_t(i)] : out[before + size_t(i - size())];
    if (token == kSeparator) break;
    out.push_back(token);
  }
  return best;
}

}  // namespace llama4rt
