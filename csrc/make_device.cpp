// The one file that names every device.
#include <charconv>
#include <memory>
#include <optional>
#include <string>

#include "base/error.h"
#include "cpu/cpu_device.h"
#include "cuda/cuda_measure.h"
#include "cuda/cuda_system.h"
#include "ops/device.h"
#include "reference/reference_ops.h"

namespace llama4rt {
namespace {

// "cuda" -> 0, "cuda:3" -> 3.
std::optional<int> cuda_index(std::string_view device) {
  if (device == "cuda") return 0;
  if (!device.starts_with("cuda:")) return std::nullopt;
  device.remove_prefix(5);
  int index = 0;
  const auto [end, error] = std::from_chars(device.data(), device.data() + device.size(), index);
  if (error != std::errc() || end != device.data() + device.size() || index < 0) return std::nullopt;
  return index;
}

}  // namespace

std::string choose_device(const std::string& device, Layout layout) {
  if (device != "auto") return device;
  return layout == Layout::kCudaTile ? "cuda:0" : "cpu";
}

DeviceTraits device_traits(const std::string& device) {
  if (device.starts_with("cuda"))
    return {.layout = Layout::kCudaTile,
            .has_own_memory = true,
            .runs_async = true,
            .samples = true,
            .gpu_kv = true,
            .measuring_ops = make_cuda_measuring_ops};
  return {};
}

Activations activations_by_name(const std::string& name) {
  if (name == "auto") return Activations::kAuto;
  if (name == "int8") return Activations::kInt8;
  LLAMA4RT_CHECK(kConfig, name == "int16", "activations is \"", name,
                 "\"; it must be \"auto\", \"int8\" or \"int16\"");
  return Activations::kInt16;
}

PrefillKernels prefill_kernels_by_name(const std::string& name) {
  if (name == "auto") return PrefillKernels::kAuto;
  LLAMA4RT_CHECK(kConfig, name == "medium", "cuda_prefill is \"", name,
                 "\"; it must be \"auto\" or \"medium\"");
  return PrefillKernels::kMedium;
}

std::unique_ptr<Device> make_device(const std::string& device, const DeviceOptions& options) {
  const std::optional<int> cuda = cuda_index(device);
  const bool cpu = device == "cpu" || device == "auto";
  LLAMA4RT_CHECK(kConfig, cpu || options.activations == Activations::kAuto, "device \"", device,
                 "\" has no choice of activations, the CPU has: leave it at \"auto\"");
  LLAMA4RT_CHECK(
      kConfig,
      cuda || (options.prefill == PrefillKernels::kAuto && options.run_ahead && options.overlap_kernels),
      "device \"", device,
      "\" is no GPU: leave cuda_prefill, cuda_run_ahead and cuda_overlap at their defaults");
  if (cpu) return make_cpu_device(options);
  if (device == "reference") return std::make_unique<ReferenceDevice>();
  if (cuda) return make_cuda_device(*cuda, options);
  throw Error(
      ErrorKind::kConfig,
      error_text("device \"", device, "\" is unknown; use \"auto\", \"cpu\", \"cuda:0\" or \"reference\""));
}

}  // namespace llama4rt
