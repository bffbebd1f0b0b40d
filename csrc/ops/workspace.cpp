#include "ops/workspace.h"

#include <algorithm>

#include "base/checked_math.h"
#include "base/error.h"
#include "ops/device.h"

namespace llama4rt {
namespace {
constexpr size_t kAlignment = 64;
}

Workspace::Workspace(Device& device, size_t bytes)
    : device_(device), base_(static_cast<char*>(device.allocate(bytes))), capacity_(bytes) {}

Workspace::~Workspace() { device_.deallocate(base_, capacity_); }

size_t Workspace::bytes_for(DType dtype, int64_t elements) {
  return round_up(size_t(elements) * dtype_size(dtype), kAlignment);
}

Tensor Workspace::take(DType dtype, int64_t rows, int64_t columns) {
  const size_t bytes = bytes_for(dtype, rows * columns);
  LLAMA4RT_CHECK(kInternal, bytes <= capacity_ - used_, "workspace of ", capacity_,
                 " bytes is too small: ", used_, " in use, ", bytes, " more asked for");
  Tensor t(base_ + used_, dtype, {rows, columns});
  used_ += bytes;
  peak_ = std::max(peak_, used_);
  return t;
}

Tensor Workspace::take_vector(DType dtype, int64_t size) {
  Tensor t = take(dtype, size, 1);
  t.rank = 1;
  return t;
}

}  // namespace llama4rt
