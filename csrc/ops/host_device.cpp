#include "ops/host_device.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "base/checked_math.h"
#include "base/error.h"

namespace llama4rt {
namespace {

constexpr size_t kMapBytes = size_t(1) << 20;
constexpr size_t kHugePage = size_t(2) << 20, kPage = 4096;

void* map_pages(size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  LLAMA4RT_CHECK(kInternal, p != MAP_FAILED, "out of memory: the system refused ", bytes, " bytes");
  return p;
}

}  // namespace

void* HostDevice::allocate(size_t bytes) {
  if (bytes < kMapBytes) {
    void* p = std::aligned_alloc(64, round_up(std::max<size_t>(bytes, 1), size_t(64)));
    LLAMA4RT_CHECK(kInternal, p, "out of memory: the system refused ", bytes, " bytes");
    return p;
  }
  if (bytes < kHugePage) return map_pages(bytes);
  // Huge pages begin at multiples of their size: what is mapped too much in front and behind goes back.
  auto* const first = static_cast<std::byte*>(map_pages(bytes + kHugePage));
  const size_t front =
      round_up(reinterpret_cast<uintptr_t>(first), kHugePage) - reinterpret_cast<uintptr_t>(first);
  const size_t kept = round_up(bytes, kPage), behind = round_up(bytes + kHugePage, kPage) - front - kept;
  if (front > 0) munmap(first, front);
  if (behind > 0) munmap(first + front + kept, behind);
  madvise(first + front, kept, MADV_HUGEPAGE);  // a wish
  return first + front;
}

void HostDevice::deallocate(void* p, size_t bytes) {
  if (!p) return;
  if (bytes < kMapBytes)
    std::free(p);
  else
    munmap(p, bytes);
}

void HostDevice::copy_to_device(void* dst, const void* src, size_t bytes) {
  if (bytes > 0) std::memcpy(dst, src, bytes);
}
void HostDevice::copy_to_host(void* dst, const void* src, size_t bytes) {
  if (bytes > 0) std::memcpy(dst, src, bytes);
}

}  // namespace llama4rt
