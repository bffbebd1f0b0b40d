// Freed memory is filled, so that a test that uses it fails here as it would with the address sanitizer: an object
// that was given back is no object any more. Sanitizers do this better and keep their own.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#include <malloc.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace {

constexpr size_t kMostFilled = 4096;  // of each block; objects are smaller, and large buffers would take time

void free_filled(void* p) {
  if (p) std::memset(p, 0xdd, std::min(malloc_usable_size(p), kMostFilled));
  std::free(p);
}

}  // namespace

void operator delete(void* p) noexcept { free_filled(p); }
void operator delete(void* p, size_t) noexcept { free_filled(p); }
void operator delete(void* p, std::align_val_t) noexcept { free_filled(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { free_filled(p); }
#endif
