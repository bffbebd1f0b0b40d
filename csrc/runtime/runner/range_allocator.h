// RangeAllocator: which parts of one block of memory are taken. First fit; for tens of parts, not thousands.
#pragma once

#include <cstdint>
#include <map>
#include <optional>

namespace llama4rt {

class RangeAllocator {
 public:
  explicit RangeAllocator(int64_t size) : size_(size) {}

  // Where `count` units in a row are free; they are taken now. Empty when there are none.
  std::optional<int64_t> take(int64_t count) {
    int64_t begin = 0;
    for (const auto& [at, end] : taken_) {
      if (at - begin >= count) break;
      begin = end;
    }
    if (size_ - begin < count) return std::nullopt;
    taken_.emplace(begin, begin + count);
    return begin;
  }
  void give_back(int64_t begin) { taken_.erase(begin); }

 private:
  const int64_t size_;
  std::map<int64_t, int64_t> taken_;  // begin -> end
};

}  // namespace llama4rt
