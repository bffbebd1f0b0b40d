// The host side of the emulator: cuda::Stream, Event, Graph and memory (csrc/cuda/runtime.h) over queues.
//
// Nothing runs when it is submitted. Streams are drained, in a seeded random order, only when the host waits
// for one of them; so a result read too early, a buffer given up while in use and a missing event show up on
// a CPU too.
#pragma once

#include <memory>

#include "cuda/runtime.h"
#include "simt_emulator/executor.h"

namespace llama4rt::simt {

void enqueue_launch(cuda::Stream& stream, std::shared_ptr<Launch> launch);

// While one lives, kernels are launched but not run: for tests of what the host asks for. Memory need not be
// there.
class DroppedLaunches {
 public:
  DroppedLaunches();
  ~DroppedLaunches();
  DroppedLaunches(const DroppedLaunches&) = delete;
  DroppedLaunches& operator=(const DroppedLaunches&) = delete;
};

}  // namespace llama4rt::simt
