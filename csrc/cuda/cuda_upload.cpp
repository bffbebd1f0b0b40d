#include "cuda/cuda_upload.h"

#include <algorithm>
#include <cstring>

namespace llama4rt {
namespace {

constexpr int kReaders = 8;
constexpr int64_t kGrain = int64_t(64) << 10;  // bytes: the smallest chunk of one thread

}  // namespace

Uploader::Uploader(cuda::Stream& stream, size_t side_bytes)
    : stream_(stream), side_bytes_(side_bytes), readers_(std::min(kReaders, available_cpus())) {
  for (Side& side : sides_) side.memory = cuda::PinnedBuffer(side_bytes);
}

void Uploader::copy(void* dst, const void* src, size_t bytes) {
  auto* to = static_cast<char*>(dst);
  const auto* from = static_cast<const char*>(src);
  while (bytes > 0) {
    Side& side = sides_[next_];
    next_ ^= 1;
    side.copied.synchronize();
    const size_t count = std::min(bytes, side_bytes_);
    auto* const memory = static_cast<char*>(side.memory.data());
    readers_.parallel_for(int64_t(count), kGrain, [&](int64_t begin, int64_t end) {
      std::memcpy(memory + begin, from + begin, size_t(end - begin));
    });
    stream_.copy_to_device(to, memory, count);
    side.copied.record(stream_);
    to += count;
    from += count;
    bytes -= count;
  }
}

}  // namespace llama4rt
