// Scratch: memory of CpuOps that only grows, so that steps of a size seen before allocate nothing.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "base/checked_math.h"
#include "base/error.h"

namespace llama4rt::cpu {

class Scratch {
 public:
  // At least `count` elements, 64-byte aligned, contents undefined; invalidates what it returned before.
  template <class T>
  T* get(int64_t count) {
    return reinterpret_cast<T*>(bytes(size_t(count) * sizeof(T)));
  }

 private:
  std::byte* bytes(size_t wanted) {
    if (wanted > capacity_) {
      const size_t size = round_up(std::max(wanted, capacity_ + capacity_ / 2), size_t(4096));
      data_.reset();
      capacity_ = 0;
      data_.reset(static_cast<std::byte*>(std::aligned_alloc(64, size)));
      LLAMA4RT_CHECK(kInternal, data_, "out of memory: the system refused ", size, " bytes of scratch");
      capacity_ = size;
    }
    return data_.get();
  }

  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, Free> data_;
  size_t capacity_ = 0;
};

}  // namespace llama4rt::cpu
