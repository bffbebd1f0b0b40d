// csrc/cuda/runtime.cpp over a cudart that is made for this (tests/fake_cudart): attributes of kernels, errors after which
// nothing works, memory that is given back. A GPU's own behaviour it cannot show.
#include "cuda/runtime.h"

#include <memory>
#include <string>

#include "base/device_lost.h"
#include "cuda_runtime.h"
#include "test.h"

namespace llama4rt {
namespace {

using cuda::DeviceUse;
using cuda::Stream;
using fake_cuda::state;

// Kernels are addresses, each used by one test only: what was set of them is remembered for the whole process.
int kernels[32];

void start(Stream& stream, const void* kernel, size_t dynamic_shared) {
  launch_raw("some kernel", kernel, {.threads = 32, .dynamic_shared = dynamic_shared}, stream, nullptr);
}

// What `function` throws.
template <class Function>
std::string words(const Function& function, bool lost) {
  try {
    function();
  } catch (const DeviceLost& e) {
    CHECK(lost);
    return e.what();
  } catch (const Error& e) {
    CHECK(!lost);
    return e.what();
  }
  CHECK(false);
  return {};
}

}  // namespace

TEST(attributes_of_a_kernel_are_set_once_to_the_most) {
  fake_cuda::reset();
  const void *const kernel_a = &kernels[0], *const kernel_b = &kernels[1];
  const DeviceUse use(0);
  Stream stream, other;
  for (size_t bytes : {0, 1000, 60000, 50000, 231424}) {
    start(stream, kernel_a, bytes);
    start(other, kernel_a, bytes / 2);
  }
  CHECK_EQ(state().dynamic_shared.at(kernel_a), 232448 - 1024);
  CHECK_EQ(state().carveout.at(kernel_a), 100);
  CHECK_EQ(state().count("cudaFuncSetAttribute"), 2);
  start(stream, kernel_b, 60000);
  CHECK_EQ(state().count("cudaFuncSetAttribute"), 4);
  state().device = 1;  // attributes are of a device
  start(stream, kernel_a, 60000);
  CHECK_EQ(state().count("cudaFuncSetAttribute"), 6);
  state().device = 0;
}

TEST(an_error_that_passes_ends_nothing) {
  fake_cuda::reset();
  const DeviceUse use(0);
  Stream stream;
  state().fails["cudaLaunchKernelExC"] = cudaErrorInvalidValue;
  const std::string text = words([&] { start(stream, &kernels[2], 0); }, false);
  CHECK(text.find("some kernel") != std::string::npos);
  CHECK_EQ(state().calls.back(), "cudaGetLastError");  // or the next call would report it
  start(stream, &kernels[2], 0);
  state().fails["cudaMalloc"] = cudaErrorMemoryAllocation;
  CHECK(words([] { cuda::device_malloc(64); }, false).find("refused 64 bytes") != std::string::npos);
  cuda::device_free(cuda::device_malloc(64));
  stream.synchronize();
  CHECK_EQ(state().count("cudaDeviceReset"), 0);
}

TEST(a_sticky_error_loses_the_device_until_the_last_user_is_gone) {
  int next = 3;
  for (cudaError_t error :
       {cudaErrorECCUncorrectable, cudaErrorIllegalAddress, cudaErrorLaunchTimeout, cudaErrorAssert,
        cudaErrorHardwareStackError, cudaErrorIllegalInstruction, cudaErrorMisalignedAddress,
        cudaErrorInvalidAddressSpace, cudaErrorInvalidPc, cudaErrorLaunchFailure}) {
    fake_cuda::reset();
    const void* const kernel = &kernels[next++];
    {
      const DeviceUse use(0);
      Stream stream;
      start(stream, kernel, 60000);
      const auto second = std::make_unique<DeviceUse>(0);
      void* const memory = cuda::device_malloc(64);
      state().sticky = error;
      CHECK(words([&] { stream.synchronize(); }, true).find("when every engine") != std::string::npos);
      CHECK(!words([&] { stream.copy_to_device(memory, memory, 8); }, true).empty());
      CHECK(!words([] { cuda::device_malloc(64); }, true).empty());
      CHECK(words([] { DeviceUse another(0); }, false).find("still holds it") != std::string::npos);
      const DeviceUse elsewhere(1);  // other devices work on
      cuda::device_free(memory);
      CHECK_EQ(state().count("cudaFree"), 0);  // the reset frees it
      CHECK_EQ(state().count("cudaDeviceReset"), 0);
    }
    CHECK_EQ(state().count("cudaStreamDestroy"), 0);
    CHECK_EQ(state().count("cudaDeviceReset"), 1);
    const DeviceUse again(0);  // a new context, in which nothing is set
    state().dynamic_shared.clear();
    Stream stream;
    start(stream, kernel, 60000);
    CHECK_EQ(state().dynamic_shared.at(kernel), 232448 - 1024);
  }
}

TEST(waiting_goes_on_until_the_work_is_done) {
  fake_cuda::reset();
  const DeviceUse use(0);
  Stream stream;
  cuda::Event event;
  event.record(stream);
  state().not_ready = 1000;
  stream.synchronize();
  CHECK_EQ(state().count("cudaStreamQuery"), 1001);
  state().not_ready = 10;
  event.synchronize();
  CHECK_EQ(state().count("cudaEventQuery"), 11);
}

TEST(graphs_know_their_bytes_and_leave_nothing_behind) {
  fake_cuda::reset();
  {
    const DeviceUse use(0);
    Stream stream;
    const int before = state().live();
    {
      cuda::Graph graph(stream, [] {});
      CHECK_EQ(graph.bytes(), size_t(1) << 20);
      graph.launch(stream);
    }
    CHECK_EQ(state().live(), before);
    for (const char* name : {"cudaGraphInstantiate", "cudaGraphUpload", "cudaStreamEndCapture"}) {
      state().fails[name] = cudaErrorInvalidValue;
      CHECK(!words([&] { cuda::Graph failing(stream, [] {}); }, false).empty());
      CHECK_EQ(state().live(), before);
    }
    CHECK(!words([&] { cuda::Graph failing(stream, [] { throw Error(ErrorKind::kInternal, "x"); }); }, false)
               .empty());
    CHECK_EQ(state().live(), before);
  }
  CHECK_EQ(state().live(), 0);
}

}  // namespace llama4rt
