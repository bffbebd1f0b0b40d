#include "cuda/runtime_errors.h"

#include <algorithm>
#include <array>
#include <mutex>
#include <string>

#include "base/device_lost.h"
#include "cuda/runtime.h"

namespace llama4rt::cuda {
namespace {

constexpr int kMaxDevices = 64;

struct DeviceState {
  int users = 0;
  int context = 0;
  Loss loss = Loss::kNone;
  std::string reason;
};
std::mutex g_mutex;  // guards g_devices
std::array<DeviceState, kMaxDevices> g_devices;

DeviceState& state_of(int device) { return g_devices[size_t(device % kMaxDevices)]; }

int current_device() {
  int device = 0;
  return cudaGetDevice(&device) == cudaSuccess ? device : 0;
}

[[noreturn]] void lose(Loss loss, const std::string& reason) {
  {
    const std::lock_guard lock(g_mutex);
    DeviceState& state = state_of(current_device());
    state.loss = std::max(state.loss, loss);
    if (state.reason.empty()) state.reason = reason;
  }
  throw DeviceLost(reason);
}

}  // namespace

bool is_sticky(cudaError_t status) {
  switch (status) {
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
      return true;
    default:
      return false;
  }
}

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  const std::string words = error_text("cuda: ", what, ": ", cudaGetErrorString(status));
  if (is_sticky(status))
    lose(Loss::kFailed,
         error_text(words,
                    "; the GPU can be used again when every engine that this process has on it "
                    "is closed"));
  (void)cudaGetLastError();
  throw Error(ErrorKind::kInternal, words);
}

void give_up_waiting(const char* what, int seconds) {
  lose(Loss::kHung,
       error_text("cuda: ", what, ": no end after ", seconds,
                  " seconds; this process cannot use the GPU any more and has to be started anew"));
}

Loss loss() {
  const std::lock_guard lock(g_mutex);
  return state_of(current_device()).loss;
}

std::pair<int, int> current_context() {
  const int device = current_device();
  const std::lock_guard lock(g_mutex);
  return {device, state_of(device).context};
}

DeviceUse::DeviceUse(int device) : device_(device) {
  const std::lock_guard lock(g_mutex);
  DeviceState& state = state_of(device);
  LLAMA4RT_CHECK(kInternal, state.loss == Loss::kNone, "cuda:", device,
                 " was lost to this process, and an engine still holds it: ", state.reason);
  ++state.users;
}

DeviceUse::~DeviceUse() {
  const std::lock_guard lock(g_mutex);
  DeviceState& state = state_of(device_);
  if (--state.users > 0 || state.loss != Loss::kFailed) return;
  // Frees all memory of the context, too.
  if (cudaSetDevice(device_) != cudaSuccess || cudaDeviceReset() != cudaSuccess) return;
  state.loss = Loss::kNone;
  state.reason.clear();
  ++state.context;
}

}  // namespace llama4rt::cuda
