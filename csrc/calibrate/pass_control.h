// How far a pass over a layer is, and whether it shall end early; other threads may look and ask.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/error.h"

namespace llama4rt::calibrate {

struct PassControl {
  std::atomic<int64_t> weights_done{0};
  std::atomic<bool> cancelled{false};

  // Throws kInternal once the pass is cancelled.
  void check() const { LLAMA4RT_CHECK(kInternal, !cancelled, "the calibration was cancelled"); }
};

}  // namespace llama4rt::calibrate
