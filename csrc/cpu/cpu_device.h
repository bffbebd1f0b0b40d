// The CPU as a device: the host's memory, and CpuOps. For make_device.
#pragma once

#include <memory>
#include <string>

#include "cpu/cpu_ops.h"
#include "ops/host_device.h"

namespace llama4rt {

class CpuDevice final : public HostDevice {
 public:
  CpuDevice(const cpu::Kernels& kernels, const DeviceOptions& options);

  Ops& ops() override { return ops_; }
  std::string name() const override { return "cpu"; }
  std::string numerics() const override;
  std::string describe() const override;  // "cpu avx512_vnni, 2 threads, int8 activations"
  int num_threads() const override { return ops_.num_threads(); }

 private:
  CpuOps ops_;
};

// The instruction set follows LLAMA4RT_CPU_ISA, or the best this machine has.
std::unique_ptr<Device> make_cpu_device(const DeviceOptions& options);

}  // namespace llama4rt
