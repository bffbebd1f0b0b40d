// Global memory: the device memory of the emulated host runtime, with what is known of each byte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "ptx_executor/order.h"
#include "simt_emulator/device_memory.h"

namespace llama4rt::ptx_executor {

struct Warp;

class GlobalSpace {
 public:
  // One allocation.
  struct Region {
    unsigned char* base = nullptr;
    size_t bytes = 0;
    const simt::Allocation* allocation = nullptr;
    // Of each byte: the launch that wrote it last; 0: nobody did, 1: the host.
    std::vector<uint32_t> writer;
    // Of each word, where that is checked: the thread that wrote it last.
    std::vector<Order::Tag> tags;
  };
  static constexpr uint32_t kHost = 1, kKernelBefore = 2, kFirstLaunch = 3;

  // Bytes of a region, and who wrote them.
  struct Place {
    unsigned char* p = nullptr;
    uint32_t* writer = nullptr;
    Order::Tag* tag = nullptr;  // of the first word; null: not checked
  };

  // Where `bytes` at `address` lie; a fault of the lane when that is outside or misaligned.
  Place at(const Warp& w, int lane, uint64_t address, int64_t bytes, int alignment);
  // Whether all were written. A fault when the kernel before wrote some and the lane has not waited for it, or another
  // thread of this launch did, and nothing stands between.
  bool read(const Warp& w, int lane, const Place& at, int64_t bytes) const;
  bool holds(const Place& at, int64_t bytes) const;  // whether all were written
  enum class How : uint8_t { kPlain, kAtomic };
  void write(const Warp& w, int lane, const Place& at, int64_t bytes, How how = How::kPlain);

  void host_wrote(const void* p, size_t bytes, uint32_t writer);
  uint32_t next_launch() { return next_launch_++; }

 private:
  Region* find(uint64_t address);
  std::map<uint64_t, Region> regions_;  // by address
  Region* last_ = nullptr;
  uint32_t next_launch_ = kFirstLaunch;
};

}  // namespace llama4rt::ptx_executor
