// The ranges of one block of memory against a model so plain that it cannot be wrong: an array of who has each unit.
#include "runtime/runner/range_allocator.h"

#include <algorithm>
#include <map>
#include <optional>
#include <random>
#include <vector>

#include "test.h"

namespace llama4rt {
namespace {

TEST(takes_the_first_place_that_is_large_enough) {
  RangeAllocator ranges(10);
  CHECK_EQ(ranges.take(3).value(), 0);
  CHECK_EQ(ranges.take(2).value(), 3);
  CHECK_EQ(ranges.take(4).value(), 5);
  CHECK(!ranges.take(2).has_value());
  ranges.give_back(3);
  CHECK_EQ(ranges.take(2).value(), 3);
  CHECK_EQ(ranges.take(1).value(), 9);
  CHECK(!ranges.take(1).has_value());
}

// Enough in all, but in pieces: the last of which ends with the memory, and nothing may go beyond.
TEST(never_goes_beyond_the_end_when_it_is_in_pieces) {
  RangeAllocator ranges(10);
  for (int64_t at : {0, 3, 6}) CHECK_EQ(ranges.take(3).value(), at);
  ranges.give_back(0);
  ranges.give_back(6);
  CHECK(!ranges.take(5).has_value());  // free: 0..3 and 6..10
  CHECK_EQ(ranges.take(4).value(), 6);
  CHECK(!ranges.take(4).has_value());
  CHECK_EQ(ranges.take(3).value(), 0);
}

TEST(a_range_larger_than_all_of_it_has_no_place) {
  RangeAllocator ranges(7);
  CHECK(!ranges.take(8).has_value());
  CHECK_EQ(ranges.take(7).value(), 0);
  RangeAllocator none(0);
  CHECK(!none.take(1).has_value());
}

TEST(agrees_with_an_array_on_random_calls) {
  for (unsigned seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    const auto up_to = [&](int64_t most) { return int64_t(random() % uint64_t(most)) + 1; };
    const int64_t size = up_to(60);
    RangeAllocator ranges(size);
    std::vector<bool> taken(size_t(size), false);
    std::map<int64_t, int64_t> held;  // begin -> count
    for (int i = 0; i < 300; ++i) {
      if (!held.empty() && random() % 2 == 0) {
        const auto one = std::next(held.begin(), int64_t(random() % held.size()));
        ranges.give_back(one->first);
        std::fill_n(taken.begin() + one->first, one->second, false);
        held.erase(one);
        continue;
      }
      const int64_t count = up_to(size / 3 + 1);
      std::optional<int64_t> expected;
      for (int64_t at = 0; at + count <= size && !expected; ++at)
        if (std::find(taken.begin() + at, taken.begin() + at + count, true) == taken.begin() + at + count)
          expected = at;
      const std::optional<int64_t> place = ranges.take(count);
      CHECK_EQ(place.value_or(-1), expected.value_or(-1));
      if (place != expected) return;  // the array has no such place
      if (!place) continue;
      std::fill_n(taken.begin() + *place, count, true);
      held.emplace(*place, count);
    }
  }
}

}  // namespace
}  // namespace llama4rt
