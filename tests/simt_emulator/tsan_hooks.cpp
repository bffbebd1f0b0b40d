// The functions that g++ -fsanitize=thread calls for every load and store of instrumented code: kernels. The
// program is not linked with the thread sanitizer, so these are the only definitions. They must be safe to
// meet again while the emulator runs (inline library functions exist once, maybe as their instrumented copy),
// hence the flag in_runtime.
#include "simt_emulator/checker.h"

#ifdef LLAMA4RT_SIMT_CHECKED

namespace llama4rt::simt {
namespace {

inline void seen(const void* p, size_t bytes, checker::Kind kind, const void* pc) {
  if (in_runtime) return;
  InRuntime guard;
  checker::access(p, bytes, kind, {pc, {}});
}

// Accesses that g++ takes for aligned, as nvcc does.
inline void seen_aligned(const void* p, size_t bytes, checker::Kind kind, const void* pc) {
  if (in_runtime) return;
  InRuntime guard;
  if (reinterpret_cast<uintptr_t>(p) % bytes != 0) fail("misaligned access at " + Origin{pc, {}}.text());
  checker::access(p, bytes, kind, {pc, {}});
}

}  // namespace
}  // namespace llama4rt::simt

using llama4rt::simt::seen;
using llama4rt::simt::seen_aligned;
using Kind = llama4rt::simt::checker::Kind;

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmissing-declarations"
extern "C" {

#define HOOKS(N)                                                                                     \
  void __tsan_read##N(void* p) { seen_aligned(p, N, Kind::kRead, __builtin_return_address(0)); }     \
  void __tsan_write##N(void* p) { seen_aligned(p, N, Kind::kWrite, __builtin_return_address(0)); }   \
  void __tsan_unaligned_read##N(void* p) { seen(p, N, Kind::kRead, __builtin_return_address(0)); }   \
  void __tsan_unaligned_write##N(void* p) { seen(p, N, Kind::kWrite, __builtin_return_address(0)); } \
  void __tsan_volatile_read##N(void* p) { seen(p, N, Kind::kRead, __builtin_return_address(0)); }    \
  void __tsan_volatile_write##N(void* p) { seen(p, N, Kind::kWrite, __builtin_return_address(0)); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
#undef HOOKS

void __tsan_init() { llama4rt::simt::checker::set_instrumented(); }
void __tsan_read_range(void* p, unsigned long n) { seen(p, n, Kind::kRead, __builtin_return_address(0)); }
void __tsan_write_range(void* p, unsigned long n) { seen(p, n, Kind::kWrite, __builtin_return_address(0)); }
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

// Host code in instrumented files: guards of static variables and reference counts. Kernels use ptx/ atomics.
unsigned char __tsan_atomic8_load(const volatile unsigned char* p, int order) {
  return __atomic_load_n(p, order);
}
void __tsan_atomic8_store(volatile unsigned char* p, unsigned char v, int order) {
  __atomic_store_n(p, v, order);
}
int __tsan_atomic32_load(const volatile int* p, int order) { return __atomic_load_n(p, order); }
void __tsan_atomic32_store(volatile int* p, int v, int order) { __atomic_store_n(p, v, order); }
int __tsan_atomic32_fetch_add(volatile int* p, int v, int order) { return __atomic_fetch_add(p, v, order); }
long __tsan_atomic64_load(const volatile long* p, int order) { return __atomic_load_n(p, order); }
}
#pragma GCC diagnostic pop

#endif
