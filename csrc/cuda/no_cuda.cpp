// cuda_system.h for a build without CUDA: says so.
#include "base/error.h"
#include "cuda/cuda_system.h"

namespace llama4rt {
namespace {
constexpr const char* kProblem =
    "this build of llama4rt has no CUDA kernels (it was built without nvcc; build again with "
    "LLAMA4RT_CUDA=ON)";
}

bool cuda_built() { return false; }

CudaSystem find_cuda() {
  return {.built = false, .driver = 0, .runtime = 0, .problem = kProblem, .devices = {}};
}

std::unique_ptr<Device> make_cuda_device(int device, const DeviceOptions&) {
  throw Error(ErrorKind::kConfig,
              error_text("device \"cuda:", device, "\": ", kProblem, "; or use device=\"cpu\""));
}

}  // namespace llama4rt
