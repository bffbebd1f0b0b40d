// DeviceLost: a device that computes nothing more for this process, as a GPU after an access out of bounds. Whoever
// catches it gives up the engine; other errors of a step end the requests that were in it.
#pragma once

#include <string>

#include "base/error.h"

namespace llama4rt {

class DeviceLost final : public Error {
 public:
  explicit DeviceLost(const std::string& message) : Error(ErrorKind::kInternal, message) {}
};

}  // namespace llama4rt
