// Uploader: large data to the device through two pinned buffers. While the device reads one, several threads
// fill the other: a single thread would wait for the pages of a mapped file one by one.
#pragma once

#include <cstddef>

#include "base/thread_pool.h"
#include "cuda/runtime.h"

namespace llama4rt {

class Uploader {
 public:
  // side_bytes: of one pinned buffer.
  explicit Uploader(cuda::Stream& stream, size_t side_bytes = size_t(32) << 20);
  // `src` is free when it returns; the bytes are in place for whatever the stream runs next.
  void copy(void* dst, const void* src, size_t bytes);

 private:
  struct Side {
    cuda::PinnedBuffer memory;
    cuda::Event copied;  // nothing marked: free
  };
  cuda::Stream& stream_;
  const size_t side_bytes_;
  ThreadPool readers_;
  Side sides_[2];
  int next_ = 0;
};

}  // namespace llama4rt
