// Fibers: one stack per emulated CUDA thread, switched by hand. Nothing here knows about CUDA.
//
// x86-64 switches in nine instructions (no signal mask, no floating-point state: the System V ABI lets a call
// clobber the rest); other machines, and builds with LLAMA4RT_SIMT_UCONTEXT, use ucontext.
#pragma once

#include <cstddef>
#include <vector>

#if !defined(__x86_64__) && !defined(LLAMA4RT_SIMT_UCONTEXT)
#define LLAMA4RT_SIMT_UCONTEXT
#endif
#ifdef LLAMA4RT_SIMT_UCONTEXT
#include <ucontext.h>
#endif

namespace llama4rt::simt {

struct Stack {
  char* bottom = nullptr;  // lowest usable address; a guard page lies below
  size_t size = 0;
  bool contains(const void* p) const {
    return static_cast<const char*>(p) >= bottom && static_cast<const char*>(p) < bottom + size;
  }
};

// Stacks are mapped once and used again by the threads of later blocks.
class StackPool {
 public:
  StackPool() = default;
  ~StackPool();
  StackPool(const StackPool&) = delete;
  StackPool& operator=(const StackPool&) = delete;
  const Stack& get(size_t index);

 private:
  std::vector<Stack> stacks_;
};

// A place to come back to. The scheduler's own Fiber has no stack of its own.
struct Fiber {
  Stack stack;
  void* saved_sp = nullptr;
  void* fake_stack = nullptr;  // AddressSanitizer's
#ifdef LLAMA4RT_SIMT_UCONTEXT
  ucontext_t context;
#endif
};

// Makes `fiber` start in entry(), which must never return, at its first turn.
void start_fiber(Fiber& fiber, const Stack& stack, void (*entry)());
// Runs `to` until something switches back to `from`. With `ends`, `from` is never continued.
void switch_fiber(Fiber& from, Fiber& to, bool ends = false);
// The first thing a fiber does.
void fiber_entered();

}  // namespace llama4rt::simt
