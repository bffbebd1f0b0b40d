// Tensor maps are made by the driver. Its entry point is looked up at run time, so nothing links libcuda.
#include "cuda/tensor_map.h"

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstring>

#include "base/error.h"

namespace llama4rt::cuda {
namespace {

using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                            const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                            CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

Encode find_encode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result{};
  const cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                              cudaEnableDefault, &result);
  LLAMA4RT_CHECK(
      kInternal, status == cudaSuccess && result == cudaDriverEntryPointSuccess && function,
      "cuda: this driver has no cuTensorMapEncodeTiled; Hopper kernels need a driver for CUDA 12 or later");
  return reinterpret_cast<Encode>(function);
}

}  // namespace

TensorMap make_tensor_map_16bit(const void* base, int64_t rows, int64_t columns, int64_t row_stride_bytes,
                                int box_rows, int box_columns, Swizzle swizzle) {
  static const Encode encode = find_encode();
  static constexpr CUtensorMapSwizzle kSwizzles[] = {CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                                     CU_TENSOR_MAP_SWIZZLE_64B, CU_TENSOR_MAP_SWIZZLE_32B};
  const cuuint64_t sizes[2] = {cuuint64_t(columns), cuuint64_t(rows)};
  const cuuint64_t strides[1] = {cuuint64_t(row_stride_bytes)};
  const cuuint32_t box[2] = {cuuint32_t(box_columns), cuuint32_t(box_rows)};
  const cuuint32_t steps[2] = {1, 1};
  CUtensorMap made;
  const CUresult status = encode(&made, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(base), sizes,
                                 strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, kSwizzles[int(swizzle)],
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  LLAMA4RT_CHECK(kInternal, status == CUDA_SUCCESS, "cuda: no tensor map of [", rows, ", ", columns,
                 "] in boxes of [", box_rows, ", ", box_columns, "]: driver error ", int(status));
  TensorMap map{};
  static_assert(sizeof made == sizeof map.bytes);
  std::memcpy(map.bytes, &made, sizeof made);
  return map;
}

}  // namespace llama4rt::cuda
