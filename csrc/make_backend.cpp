// The one file that names every device.
#include <memory>
#include <string>

#include "cpu/cpu_backend.h"
#include "ops/backend.h"
#include "reference/reference_backend.h"

namespace llama4rt {

std::unique_ptr<Backend> make_backend(const std::string& device, int num_threads) {
  if (device == "reference") return make_reference_backend();
  if (device == "cpu" || device == "auto") return make_cpu_backend(num_threads);
  if (device.starts_with("cuda"))
    throw Error(ErrorKind::kConfig,
                error_text("device \"", device,
                           "\": this build of llama4rt has no CUDA backend; use device=\"cpu\""));
  throw Error(ErrorKind::kConfig,
              error_text("device \"", device, "\" is unknown; use \"auto\", \"cpu\" or \"reference\""));
}

}  // namespace llama4rt
