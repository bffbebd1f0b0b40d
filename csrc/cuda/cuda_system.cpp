#include "cuda/cuda_system.h"

#include "cuda/cuda_device.h"
#include "cuda/runtime.h"

namespace llama4rt {
namespace {

// mma.sync with bf16 and cp.async came with Ampere.
constexpr int kOldestMajor = 8;

// Of one multiprocessor, bf16 with fp32 sums, dense; from NVIDIA's architecture white papers.
double flops_per_clock(const cuda::DeviceInfo& info) {
  const int capability = 10 * info.major + info.minor;
  if (capability == 80) return 2048;
  if (capability == 90) return 4096;
  if (capability == 100 || capability == 103) return 8192;
  return capability > 80 && capability < 90 ? 1024 : 0;
}

CudaDeviceInfo describe_device(int device) {
  const cuda::DeviceInfo info = cuda::device_info(device);
  CudaDeviceInfo d{.name = info.name,
                   .major = info.major,
                   .minor = info.minor,
                   .multiprocessors = info.multiprocessors,
                   .memory = int64_t(info.memory),
                   .peak_gbps = 2e-6 * info.memory_clock_khz * info.memory_bus_bits / 8,
                   .peak_tflops = 1e-9 * info.clock_khz * info.multiprocessors * flops_per_clock(info),
                   .problem = {}};
  if (info.major < kOldestMajor)
    d.problem = error_text("its compute capability is ", info.major, ".", info.minor, "; ", kOldestMajor,
                           ".0 (A100, RTX 30) or newer is needed");
  return d;
}

}  // namespace

bool cuda_built() { return true; }

CudaSystem find_cuda() {
  const cuda::SystemInfo info = cuda::system_info();
  CudaSystem system{
      .built = true, .driver = info.driver, .runtime = info.runtime, .problem = info.problem, .devices = {}};
  for (int device = 0; device < info.devices; ++device) {
    try {
      system.devices.push_back(describe_device(device));
    } catch (const Error& e) {
      system.devices.push_back({.name = error_text("device ", device), .problem = e.what()});
    }
  }
  return system;
}

std::unique_ptr<Device> make_cuda_device(int device, const DeviceOptions& options) {
  const CudaSystem system = find_cuda();
  LLAMA4RT_CHECK(kConfig, system.problem.empty(), "device \"cuda:", device, "\": ", system.problem,
                 "; `llama4rt doctor` says more, device=\"cpu\" needs none");
  LLAMA4RT_CHECK(kConfig, device >= 0 && size_t(device) < system.devices.size(), "device \"cuda:", device,
                 "\" does not exist; this machine shows cuda:0",
                 system.devices.size() > 1 ? error_text(" to cuda:", system.devices.size() - 1) : " only");
  const CudaDeviceInfo& found = system.devices[size_t(device)];
  LLAMA4RT_CHECK(kConfig, found.problem.empty(), "device \"cuda:", device, "\" is ", found.name,
                 " and cannot be used: ", found.problem);
  return std::make_unique<CudaDevice>(device, options);
}

}  // namespace llama4rt
