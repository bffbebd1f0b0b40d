// The host side of the emulator: cuda::Stream, Event, Graph and memory (csrc/cuda/runtime.h) over queues.
//
// Nothing runs when it is submitted. Streams are drained, in a seeded random order, only when the host waits
// for one of them; so a result read too early, a buffer given up while in use and a missing event show up on
// a CPU too.
#pragma once

#include <memory>
#include <vector>

#include "cuda/runtime.h"
#include "simt_emulator/executor.h"

namespace llama4rt::simt {

void enqueue_launch(cuda::Stream& stream, std::shared_ptr<Launch> launch);

// Device memory that in a model comes from a kernel before: whoever overlaps with it must have waited.
void as_if_a_kernel_wrote(const void* p, size_t bytes);

// Runs kernels in the emulator's place (tests/ptx_executor).
class OtherExecutor {
 public:
  virtual ~OtherExecutor() = default;
  // Launches of one stream with nothing between them.
  virtual void run(const std::vector<std::shared_ptr<const Launch>>& launches) = 0;
  virtual void host_wrote(const void* p, size_t bytes) = 0;
  virtual void kernel_before_wrote(const void* p, size_t bytes) = 0;
  // The device that it stands for: compute capability 9.0 has overlapping launches.
  virtual int compute_major() const = 0;
};
// For all streams from here on; null: the emulator itself.
void use_executor(OtherExecutor* executor);

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
