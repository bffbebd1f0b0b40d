// spin_pause: what a thread does between two looks at a value it spins on. It leaves the core's resources to
// a sibling thread and takes some nanoseconds.
#pragma once

namespace llama4rt {

inline void spin_pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb" ::: "memory");  // "yield" does nothing on cores without sibling threads
#endif
}

}  // namespace llama4rt
