// The checker's part of an atomic that orders by itself, atom.acq_rel (checker.h has relaxed ones, and fences).
#pragma once

namespace llama4rt::simt::checker {

// releases: what the current thread has done and knows goes to those who acquire at p later. acquires: it knows from
// here on what was released there. Without either it is a relaxed atomic.
void ordered_atomic(const void* p, bool releases, bool acquires);

}  // namespace llama4rt::simt::checker
