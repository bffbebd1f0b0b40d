// CUDA as this machine has it: driver and devices, for make_device and for people (`llama4rt doctor`). No
// CUDA header is seen here; built without CUDA, no_cuda.cpp answers instead.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ops/device.h"

namespace llama4rt {

struct CudaDeviceInfo {
  std::string name;  // "NVIDIA H200"
  int major = 0;     // compute capability
  int minor = 0;
  int multiprocessors = 0;
  int64_t memory = 0;  // bytes
  // What clocks and units make possible, 0 when unknown: 1e9 bytes read per second, and 1e12 flops per second
  // of bf16 products summed in fp32.
  double peak_gbps = 0;
  double peak_tflops = 0;
  std::string problem;  // why it cannot be used; empty when it can
};

struct CudaSystem {
  bool built = false;   // this build has CUDA
  int driver = 0;       // CUDA version the driver supports, 13000 for 13.0; 0: no driver
  int runtime = 0;      // CUDA version of this build
  std::string problem;  // why there is no device, in words
  std::vector<CudaDeviceInfo> devices;
};

// Whether this build has CUDA. Asks no driver.
bool cuda_built();
// Never throws.
CudaSystem find_cuda();

// Throws kConfig, in words, when there is no such device or it cannot be used.
std::unique_ptr<Device> make_cuda_device(int device, const DeviceOptions& options);

}  // namespace llama4rt
