#include "ptx_executor/shared_space.h"

#include <cstring>

#include "base/error.h"
#include "ptx_executor/warp.h"

namespace llama4rt::ptx_executor {

SharedSpace::SharedSpace(uint32_t begin, uint32_t static_end, uint32_t dynamic_begin, uint32_t end)
    : begin_(begin),
      static_end_(static_end),
      dynamic_begin_(dynamic_begin),
      end_(end),
      bytes_(end - begin, 0xff),
      state_(end - begin, 0) {}

bool SharedSpace::live(uint32_t address, int64_t bytes) const {
  const int64_t last = int64_t(address) + bytes;
  return (address >= begin_ && last <= static_end_) || (address >= dynamic_begin_ && last <= end_);
}

unsigned char* SharedSpace::raw(const Warp& w, int lane, uint32_t address, int64_t bytes, int alignment) {
  if (address % uint32_t(alignment) != 0) [[unlikely]]
    w.fault(lane, error_text("shared address ", address, " is not a multiple of ", alignment));
  if (!live(address, bytes)) [[unlikely]]
    w.fault(lane, error_text(bytes, " bytes at shared address ", address, "; the block has [", begin_, ", ",
                             static_end_, ") and [", dynamic_begin_, ", ", end_, ")"));
  return &bytes_[address - begin_];
}

unsigned char* SharedSpace::at(const Warp& w, int lane, uint32_t address, int bytes, int alignment) {
  unsigned char* p = raw(w, lane, address, bytes, alignment);
  uint8_t any = 0;
  for (int i = 0; i < bytes; ++i) any |= state_[address - begin_ + uint32_t(i)];
  if ((any & kInFlight) != 0) [[unlikely]]
    w.fault(lane, error_text("touches shared address ", address, ", bytes of a copy in flight"));
  if ((any & kMbarrier) != 0) [[unlikely]]
    w.fault(lane, error_text("touches shared address ", address, ", part of an mbarrier"));
  return p;
}

bool SharedSpace::all_are(uint32_t address, int64_t bytes, int states) const {
  const uint8_t* s = &state_[address - begin_];
  bool all = true;
  for (int64_t i = 0; i < bytes; ++i) all = all && (s[i] & states) != 0;
  return all;
}

void SharedSpace::set(uint32_t address, int64_t bytes, State add, State remove) {
  uint8_t* s = &state_[address - begin_];
  for (int64_t i = 0; i < bytes; ++i) s[i] = uint8_t((s[i] & ~remove) | add);
}

void SharedSpace::mark_written(uint32_t address, int64_t bytes) {
  std::memset(&state_[address - begin_], kWritten, size_t(bytes));
}

void SharedSpace::land(uint32_t address, const GlobalSpace::Place& from, int64_t read, int64_t bytes) {
  const size_t at = address - begin_;
  for (int64_t i = 0; i < bytes; ++i) {
    const bool holds = i >= read || from.writer[i] != 0;
    bytes_[at + size_t(i)] = i >= read ? 0 : holds ? from.p[i] : 0xff;
    uint8_t& state = state_[at + size_t(i)];
    state = uint8_t((state & ~(kWritten | kUnknown)) | (holds ? kWritten : kUnknown));
  }
}

}  // namespace llama4rt::ptx_executor
