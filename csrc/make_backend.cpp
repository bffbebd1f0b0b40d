// The one file that names every device.
#include <charconv>
#include <memory>
#include <optional>
#include <string>

#include "cpu/cpu_backend.h"
#include "cuda/cuda_devices.h"
#include "cuda/cuda_scratch.h"
#include "ops/backend.h"
#include "reference/reference_backend.h"

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
    return {.layout = Layout::kCudaTile, .host_memory = false, .scratch_bytes = cuda_scratch_bytes};
  return {};
}

Activations activations_by_name(const std::string& name) {
  if (name == "auto") return Activations::kAuto;
  if (name == "int8") return Activations::kInt8;
  LLAMA4RT_CHECK(kConfig, name == "int16", "activations is \"", name,
                 "\"; it must be \"auto\", \"int8\" or \"int16\"");
  return Activations::kInt16;
}

std::unique_ptr<Backend> make_backend(const std::string& device, int num_threads, Activations activations) {
  if (device == "cpu" || device == "auto") return make_cpu_backend(num_threads, activations);
  LLAMA4RT_CHECK(kConfig, activations == Activations::kAuto, "device \"", device,
                 "\" has no choice of activations, the CPU has: leave it at \"auto\"");
  if (device == "reference") return make_reference_backend();
  if (const std::optional<int> index = cuda_index(device)) return make_cuda_backend(*index);
  throw Error(
      ErrorKind::kConfig,
      error_text("device \"", device, "\" is unknown; use \"auto\", \"cpu\", \"cuda:0\" or \"reference\""));
}

}  // namespace llama4rt
