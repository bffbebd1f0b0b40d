// What runtime.cpp does about errors: which ones end the work on a GPU, who uses it, and when it may be used again.
//
// After a sticky error every call of the process on that GPU fails (CUDA Runtime API, cudaError_t: "the process must be
// terminated and relaunched"). Its context is destroyed when the last engine on it is closed, and the next one opens
// a new context. A GPU whose work does not end is left alone for good: every call would wait with it.
#pragma once

#include <cuda_runtime.h>

#include <utility>

namespace llama4rt::cuda {

enum class Loss : unsigned char { kNone, kFailed, kHung };

bool is_sticky(cudaError_t status);
// Throws unless status is success: DeviceLost, and the current device counts as lost, or Error(kInternal), whose
// status is taken from the runtime, so that the next call does not report it.
void check(cudaError_t status, const char* what);
// The current device has not ended its work for so long. Throws DeviceLost.
[[noreturn]] void give_up_waiting(const char* what, int seconds);
// Of the current device. Nothing of a lost device is freed piece by piece.
Loss loss();
// The current device, and how often its context has been destroyed: what was set in it before is gone.
std::pair<int, int> current_context();

}  // namespace llama4rt::cuda
