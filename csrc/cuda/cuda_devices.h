// The CUDA devices of this machine, for make_backend and for `llama4rt doctor`. No CUDA header is included
// here; built without CUDA, no_cuda.cpp answers instead.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ops/backend.h"

namespace llama4rt {

struct CudaDevice {
  std::string name;  // "NVIDIA H200"
  int major = 0;     // compute capability
  int minor = 0;
  int multiprocessors = 0;
  int64_t memory = 0;  // bytes
  // Peak rates from clocks and units, 0 when unknown: 1e9 bytes read per second, and 1e12 flops per second of
  // bf16 products summed in fp32.
  double peak_gbps = 0;
  double peak_tflops = 0;
  std::string problem;  // why it cannot be used; empty when it can
};

struct CudaSystem {
  bool built = false;   // this build has the CUDA backend
  int driver = 0;       // CUDA version the driver supports, 13000 for 13.0; 0: no driver
  int runtime = 0;      // CUDA version of this build
  std::string problem;  // why there is no device, in words
  std::vector<CudaDevice> devices;
};

// Whether this build has the CUDA backend. Asks no driver.
bool cuda_built();
// Never throws.
CudaSystem find_cuda();

// Throws kConfig, in words, when there is no such device or it cannot be used.
std::unique_ptr<Backend> make_cuda_backend(int device);

}  // namespace llama4rt
