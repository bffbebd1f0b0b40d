// Device memory: one large address range in which every allocation has pages of its own, a gap behind it, and
// an address that is never used again. New memory is filled with 0xff. While no kernel or copy runs the whole
// range is inaccessible, so host code that follows a device pointer faults as it would on a GPU.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

namespace llama4rt::simt {

struct Shadow;  // checker.cpp

struct Allocation {
  char* base = nullptr;
  size_t bytes = 0;
  int number = 0;  // the how-manyth
  bool freed = false;
  std::shared_ptr<Shadow> shadow;
  std::string describe() const;  // "allocation 3 of 4096 bytes"
};

void* device_allocate(size_t bytes);
void device_free(void* p);
size_t device_bytes_in_use();  // of live allocations, as asked for
int device_allocations();      // ever made
bool in_device_heap(const void* p);
// The allocation that starts at or before p, also when p lies behind its end; null when there is none.
Allocation* allocation_before(const void* p);
// Throws unless [p, p + bytes) lies in one live allocation; for copies the host asks for.
Allocation& live_allocation(const void* p, size_t bytes, const char* what);

// Makes live allocations accessible for as long as one lives.
class HeapAccess {
 public:
  HeapAccess();
  ~HeapAccess();
  HeapAccess(const HeapAccess&) = delete;
  HeapAccess& operator=(const HeapAccess&) = delete;
};

}  // namespace llama4rt::simt
