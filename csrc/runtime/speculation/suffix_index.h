// SuffixIndex: where in a text, which grows, its own last tokens have occurred before. Finds the longest of the
// recent places that agree with the end of the text, and reads on from there.
//
// Two chains lead from the end of each n-gram to earlier ends of the same n-gram, one for long n-grams and one for
// short ones (as match finders of compressors do it); a look at one place costs nanoseconds, and at most
// kMostPlaces of each chain are looked at. Memory: 12 bytes a token, of at most 2 * kMostTokens tokens; of a longer
// text the beginning is forgotten.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace llama4rt {

class SuffixIndex {
 public:
  static constexpr int64_t kMostTokens = 1 << 16;
  static constexpr int kLongestMatch = 64;
  static constexpr int kShortestMatch = 2;
  static constexpr int32_t kSeparator = -1;  // equal to nothing

  void append(std::span<const int32_t> tokens);
  int64_t size() const { return int64_t(text_.size()); }

  // Appends to `out` up to `most` tokens that followed the best earlier place; returns how many tokens agree there
  // with the end of the text, at most kLongestMatch, or 0. A text that repeats itself is read around in circles.
  int read_on(int most, std::vector<int32_t>& out) const;

 private:
  static constexpr int kMostPlaces = 24;
  static constexpr int kLengths[2] = {6, kShortestMatch};  // n-grams of the two chains
  struct Chain {
    std::vector<int32_t> head;  // [power of two] by hash: the latest end of such an n-gram; -1: none
    std::vector<int32_t>
        next;  // [tokens] from an end (the place behind the n-gram) minus 1 to an earlier one
  };

  size_t slot(int chain, int64_t end) const;
  void enter(int64_t end);
  void rebuild();
  int agreement(int64_t end) const;

  std::vector<int32_t> text_;
  Chain chains_[2];
};

}  // namespace llama4rt
