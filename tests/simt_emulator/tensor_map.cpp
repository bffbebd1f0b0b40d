// make_tensor_map_16bit of the emulator: the same refusals as the driver's, and our own contents.
#include "cuda/tensor_map.h"

#include <cstring>

#include "simt_emulator/async.h"

namespace llama4rt::cuda {

TensorMap make_tensor_map_16bit(const void* base, int64_t rows, int64_t columns, int64_t row_stride_bytes,
                                int box_rows, int box_columns, Swizzle swizzle) {
  simt::TensorMapContents m;
  m.base = static_cast<const char*>(base);
  m.rank = 2;
  m.element_bytes = 2;
  m.size = {uint64_t(columns), uint64_t(rows)};
  m.stride = {2, uint64_t(row_stride_bytes)};
  m.box = {uint32_t(box_columns), uint32_t(box_rows)};
  m.swizzle = simt::Swizzle(int(swizzle));
  simt::check_tensor_map(m);
  TensorMap map{};
  static_assert(sizeof m <= sizeof map.bytes);
  static_assert(std::is_trivially_copyable_v<simt::TensorMapContents>);
  std::memcpy(map.bytes, &m, sizeof m);
  return map;
}

}  // namespace llama4rt::cuda
