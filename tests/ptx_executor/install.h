// Puts the executor in the emulator's place: what cuda::launch() starts then runs as PTX.
#pragma once

#include <string>

#include "ptx_executor/global_space.h"
#include "ptx_executor/library.h"

namespace llama4rt::ptx_executor {

// From the folder of PTX on, for the rest of the process. To be called before any device memory is used.
void install(const std::string& folder);

// What was installed; throws when nothing was.
Library& library();
GlobalSpace& global_space();

// While one lives, the emulator runs kernels after all.
class Suspended {
 public:
  Suspended();
  ~Suspended();
  Suspended(const Suspended&) = delete;
  Suspended& operator=(const Suspended&) = delete;
};

}  // namespace llama4rt::ptx_executor
