// The index against a search of the whole text: it never finds a match that is not there, and mostly the longest.
#include "runtime/speculation/suffix_index.h"

#include <algorithm>
#include <random>

#include "test.h"

namespace llama4rt {
namespace {

using Tokens = std::vector<int32_t>;

// The longest agreement of the end of `text` with an earlier place, by looking at all places.
int longest(const Tokens& text) {
  int best = 0;
  for (size_t end = 1; end < text.size(); ++end) {
    int n = 0;
    while (n < SuffixIndex::kLongestMatch && size_t(n) < end &&
           text[end - 1 - size_t(n)] == text[text.size() - 1 - size_t(n)])
      ++n;
    best = std::max(best, n);
  }
  return best < SuffixIndex::kShortestMatch ? 0 : best;
}

TEST(finds_places_that_agree_and_reads_on_from_them) {
  std::mt19937 random(1);
  int64_t same = 0, shorter = 0;
  for (int run = 0; run < 60; ++run) {
    const uint32_t words = 2 + random() % 40;
    Tokens text;
    SuffixIndex index;
    while (text.size() < 600) {
      Tokens more;
      if (!text.empty() && random() % 3 == 0) {  // something again
        const size_t from = random() % text.size();
        more.assign(text.begin() + std::ptrdiff_t(from),
                    text.begin() + std::ptrdiff_t(std::min(text.size(), from + 1 + random() % 20)));
      } else {
        for (uint32_t n = 1 + random() % 4; n > 0; --n) more.push_back(int32_t(random() % words));
      }
      index.append(more);
      text.insert(text.end(), more.begin(), more.end());
      Tokens out;
      const int agreed = index.read_on(7, out);
      const int best = longest(text);
      CHECK(agreed <= best);
      (agreed == best ? same : shorter) += 1;
      CHECK_EQ(out.empty(), agreed == 0);
      if (agreed == 0) continue;
      CHECK_EQ(out.size(), size_t(7));
      // What it read follows such a place: the agreeing tokens and it stand in the text, read in circles.
      Tokens wanted(text.end() - agreed, text.end());
      wanted.insert(wanted.end(), out.begin(), out.end());
      Tokens around = text;
      around.insert(around.end(), out.begin(), out.end());
      const auto found = std::search(around.begin(), around.end() - 1, wanted.begin(), wanted.end());
      CHECK(found != around.end() - 1);
    }
  }
  CHECK(same > 20 * shorter);
}

TEST(a_separator_agrees_with_nothing_and_ends_what_is_read) {
  SuffixIndex index;
  index.append(Tokens{1, 2, 3, SuffixIndex::kSeparator});
  index.append(Tokens{1, 2});
  Tokens out;
  CHECK_EQ(index.read_on(5, out), 2);
  CHECK(out == (Tokens{3}));
  index.append(Tokens{3, SuffixIndex::kSeparator});
  out.clear();
  CHECK_EQ(index.read_on(5, out), 0);
}

TEST(forgets_the_beginning_of_a_long_text) {
  SuffixIndex index;
  index.append(Tokens{-7, -8, -9, -10});  // occurs nowhere else
  std::mt19937 random(2);
  for (int64_t n = 0; n < 5 * SuffixIndex::kMostTokens; n += 1000) {
    Tokens more(1000);
    for (int32_t& token : more) token = int32_t(random() % 100'000);
    index.append(more);
    CHECK(index.size() <= 2 * SuffixIndex::kMostTokens);
  }
  index.append(Tokens{-7, -8});
  Tokens out;
  CHECK_EQ(index.read_on(2, out), 0);
  index.append(Tokens{-7, -8});
  CHECK_EQ(index.read_on(2, out), 2);
  CHECK(out == (Tokens{-7, -8}));
}

}  // namespace
}  // namespace llama4rt
