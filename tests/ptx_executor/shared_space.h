// Shared memory of a block, byte by byte with what is known about it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ptx_executor/global_space.h"

namespace llama4rt::ptx_executor {

struct Warp;

class SharedSpace {
 public:
  // Of each byte. Unknown: a copy brought it from global memory where nobody has written, as tiles bring the keys behind the
  // last. It is 0xff, a NaN of all floats here, and so are matrix products of it; to anything else it is not written.
  enum State : uint8_t { kNothing = 0, kWritten = 1, kInFlight = 2, kMbarrier = 4, kUnknown = 8 };

  // Live addresses are [begin, static_end) and [dynamic_begin, end).
  SharedSpace(uint32_t begin, uint32_t static_end, uint32_t dynamic_begin, uint32_t end);

  // Where `bytes` at `address` lie; a fault of the lane when that is outside, misaligned, or not plain memory now.
  unsigned char* at(const Warp& w, int lane, uint32_t address, int bytes, int alignment);
  // The same for copies: whether anybody may touch them now is not asked.
  unsigned char* raw(const Warp& w, int lane, uint32_t address, int64_t bytes, int alignment);
  // Whether all bytes have been written; `address` was checked before.
  bool written(uint32_t address, int64_t bytes) const { return all_are(address, bytes, kWritten); }
  bool written_or_unknown(uint32_t address, int64_t bytes) const {
    return all_are(address, bytes, kWritten | kUnknown);
  }
  void set(uint32_t address, int64_t bytes, State add, State remove);
  void mark_written(uint32_t address, int64_t bytes);
  // The bytes of a copy in flight: `read` of them from global memory, the others zero.
  void land(uint32_t address, const GlobalSpace::Place& from, int64_t read, int64_t bytes);
  const unsigned char* bytes(uint32_t address) const { return &bytes_[address - begin_]; }

 private:
  bool live(uint32_t address, int64_t bytes) const;
  bool all_are(uint32_t address, int64_t bytes, int states) const;
  uint32_t begin_, static_end_, dynamic_begin_, end_;
  std::vector<unsigned char> bytes_;
  std::vector<uint8_t> state_;
};

}  // namespace llama4rt::ptx_executor
