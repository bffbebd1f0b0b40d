#include "simt_emulator/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "base/error.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define LLAMA4RT_SIMT_ASAN 1
#endif

namespace llama4rt::simt {
namespace {

// AddressSanitizer's frames are several times larger.
#ifdef LLAMA4RT_SIMT_ASAN
constexpr size_t kStackBytes = 256 << 10;
#else
constexpr size_t kStackBytes = 64 << 10;
#endif

#ifdef LLAMA4RT_SIMT_ASAN
const void* scheduler_bottom = nullptr;  // learnt at the first switch into a fiber
size_t scheduler_size = 0;
#endif

void take_stack(Fiber& fiber, const Stack& stack) {
  fiber.stack = stack;
  fiber.fake_stack = nullptr;
#ifdef LLAMA4RT_SIMT_ASAN
  ASAN_UNPOISON_MEMORY_REGION(stack.bottom, stack.size);  // red zones of a fiber that never came to its end
#endif
}

}  // namespace

StackPool::~StackPool() {
  const size_t page = size_t(sysconf(_SC_PAGESIZE));
  for (const Stack& s : stacks_) munmap(s.bottom - page, s.size + page);
}

const Stack& StackPool::get(size_t index) {
  const size_t page = size_t(sysconf(_SC_PAGESIZE));
  while (stacks_.size() <= index) {
    void* p = mmap(nullptr, kStackBytes + page, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    LLAMA4RT_CHECK(kInternal, p != MAP_FAILED, "the system refused a stack for an emulated thread");
    mprotect(p, page, PROT_NONE);
    stacks_.push_back({static_cast<char*>(p) + page, kStackBytes});
  }
  return stacks_[index];
}

void fiber_entered() {
#ifdef LLAMA4RT_SIMT_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_bottom, &scheduler_size);
#endif
}

#ifdef LLAMA4RT_SIMT_UCONTEXT

namespace {
void (*entry_of_next_fiber)() = nullptr;
void trampoline() { entry_of_next_fiber(); }
void raw_switch(Fiber& from, Fiber& to) { swapcontext(&from.context, &to.context); }
}  // namespace

void start_fiber(Fiber& fiber, const Stack& stack, void (*entry)()) {
  take_stack(fiber, stack);
  entry_of_next_fiber = entry;
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack.bottom;
  fiber.context.uc_stack.ss_size = stack.size;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, trampoline, 0);
}

#else

// void llama4rt_simt_switch(void** save_sp [rdi], void* load_sp [rsi])
asm(R"(
  .text
  .p2align 4
  .type llama4rt_simt_switch,@function
llama4rt_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size llama4rt_simt_switch,.-llama4rt_simt_switch
)");
extern "C" void llama4rt_simt_switch(void** save_sp, void* load_sp);

namespace {
void raw_switch(Fiber& from, Fiber& to) { llama4rt_simt_switch(&from.saved_sp, to.saved_sp); }
}  // namespace

void start_fiber(Fiber& fiber, const Stack& stack, void (*entry)()) {
  take_stack(fiber, stack);
  // Six registers, the address `ret` takes, and one word so that rsp is 8 mod 16 at the entry, as after a
  // call.
  auto* top = reinterpret_cast<uint64_t*>(stack.bottom + stack.size);
  uint64_t* sp = top - 8;
  std::memset(sp, 0, 8 * sizeof *sp);
  sp[6] = reinterpret_cast<uint64_t>(entry);
  fiber.saved_sp = sp;
}

#endif

void switch_fiber(Fiber& from, Fiber& to, [[maybe_unused]] bool ends) {
#ifdef LLAMA4RT_SIMT_ASAN
  const bool to_scheduler = to.stack.bottom == nullptr;
  __sanitizer_start_switch_fiber(ends ? nullptr : &from.fake_stack,
                                 to_scheduler ? scheduler_bottom : to.stack.bottom,
                                 to_scheduler ? scheduler_size : to.stack.size);
#endif
  raw_switch(from, to);
#ifdef LLAMA4RT_SIMT_ASAN
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

}  // namespace llama4rt::simt
