#include "cpu/cpu_device.h"

#include "base/error.h"
#include "cpu/dispatch.h"

namespace llama4rt {
namespace {

// int8 costs nothing that the demo model's answers show (docs/numerics.md) and is up to twice as fast; but
// AMX multiplies int16, faster than int8 goes without it.
Activations default_activations(const cpu::Kernels& kernels) {
  return kernels.pack_tile_row ? Activations::kInt16 : Activations::kInt8;
}

}  // namespace

CpuOps::CpuOps(const DeviceTraits& traits, const cpu::Kernels& kernels, int num_threads,
               Activations activations)
    : Ops(traits),
      kernels_(kernels),
      activations_(activations == Activations::kAuto ? default_activations(kernels) : activations),
      team_(num_threads),
      members_(size_t(team_.size())) {}

CpuDevice::CpuDevice(const cpu::Kernels& kernels, const DeviceOptions& options)
    : HostDevice(device_traits("cpu")), ops_(traits(), kernels, options.num_threads, options.activations) {}

// Neither threads nor the instruction set: docs/architecture.md, "Numbers".
std::string CpuDevice::numerics() const {
  return ops_.activations() == Activations::kInt8 ? "cpu int8" : "cpu int16";
}

std::string CpuDevice::describe() const {
  return error_text("cpu ", ops_.kernels().isa, ", ", num_threads(),
                    num_threads() == 1 ? " thread" : " threads",
                    ops_.activations() == Activations::kInt8 ? ", int8 activations" : ", int16 activations");
}

std::unique_ptr<Device> make_cpu_device(const DeviceOptions& options) {
  return std::make_unique<CpuDevice>(cpu::select_kernels(), options);
}

}  // namespace llama4rt
