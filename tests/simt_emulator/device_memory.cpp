#include "simt_emulator/device_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <map>

#include "base/checked_math.h"
#include "base/error.h"
#include "simt_emulator/checker.h"

namespace llama4rt::simt {
namespace {

constexpr size_t kHeapBytes = size_t(64) << 30;  // of addresses, not of memory

char* heap = nullptr;
size_t used = 0;
int count = 0;
size_t in_use = 0;
int open = 0;
std::map<const char*, Allocation> allocations;  // by start

size_t page_size() { return size_t(sysconf(_SC_PAGESIZE)); }

void protect(const Allocation& a, int protection) {
  mprotect(a.base, round_up(std::max<size_t>(a.bytes, 1), page_size()), protection);
}

}  // namespace

std::string Allocation::describe() const {
  return error_text("allocation ", number, " of ", bytes, " bytes", freed ? " (freed)" : "");
}

void* device_allocate(size_t bytes) {
  if (!heap) {
    void* p = mmap(nullptr, kHeapBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    LLAMA4RT_CHECK(kInternal, p != MAP_FAILED, "no address range for the emulated device memory");
    heap = static_cast<char*>(p);
  }
  const size_t mapped = round_up(std::max<size_t>(bytes, 1), page_size());
  LLAMA4RT_CHECK(kInternal, used + mapped + page_size() <= kHeapBytes,
                 "out of memory: the emulated device has no room for ", bytes, " bytes");
  Allocation a{.base = heap + used, .bytes = bytes, .number = ++count, .freed = false, .shadow = {}};
  used += mapped + page_size();
  in_use += bytes;
  protect(a, PROT_READ | PROT_WRITE);
  std::memset(a.base, 0xff, mapped);
  if (open == 0) protect(a, PROT_NONE);
  char* base = a.base;
  allocations.emplace(base, std::move(a));
  return base;
}

void device_free(void* p) {
  if (!p) return;
  const auto it = allocations.find(static_cast<const char*>(p));
  LLAMA4RT_CHECK(kInternal, it != allocations.end() && !it->second.freed,
                 "free of a pointer that is not a live device allocation");
  Allocation& a = it->second;
  a.freed = true;
  in_use -= a.bytes;
  a.shadow.reset();
  madvise(a.base, round_up(std::max<size_t>(a.bytes, 1), page_size()), MADV_DONTNEED);
  protect(a, PROT_NONE);
}

size_t device_bytes_in_use() { return in_use; }
int device_allocations() { return count; }

bool in_device_heap(const void* p) {
  return heap && static_cast<const char*>(p) >= heap && static_cast<const char*>(p) < heap + kHeapBytes;
}

Allocation* allocation_before(const void* p) {
  auto it = allocations.upper_bound(static_cast<const char*>(p));
  return it == allocations.begin() ? nullptr : &std::prev(it)->second;
}

Allocation& live_allocation(const void* p, size_t bytes, const char* what) {
  Allocation* a = in_device_heap(p) ? allocation_before(p) : nullptr;
  LLAMA4RT_CHECK(kInternal, a, what, ": a pointer that is not device memory");
  const size_t offset = size_t(static_cast<const char*>(p) - a->base);
  LLAMA4RT_CHECK(kInternal, !a->freed && offset + bytes <= a->bytes, what, ": ", bytes, " bytes at offset ",
                 offset, " of ", a->describe());
  return *a;
}

HeapAccess::HeapAccess() {
  if (open++ > 0) return;
  for (const auto& [base, a] : allocations)
    if (!a.freed) protect(a, PROT_READ | PROT_WRITE);
}
HeapAccess::~HeapAccess() {
  if (--open > 0) return;
  for (const auto& [base, a] : allocations)
    if (!a.freed) protect(a, PROT_NONE);
}

}  // namespace llama4rt::simt
