// Tensor: a view of dense data. It never owns and never allocates; it is passed by value.
// Inner dimensions are contiguous; only the stride of the first dimension is free, so that a column slice of
// a [T, N] buffer (the q, k and v parts of one qkv product) is a Tensor too.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "base/dtype.h"
#include "base/error.h"

namespace llama4rt {

struct Tensor {
  static constexpr int kMaxRank = 4;

  void* data = nullptr;
  DType dtype = DType::kF32;
  int rank = 0;
  std::array<int64_t, kMaxRank> shape{};
  int64_t stride0 = 0;  // elements between consecutive indices of dimension 0

  Tensor() = default;
  Tensor(void* data_, DType dtype_, std::initializer_list<int64_t> dims) : data(data_), dtype(dtype_) {
    LLAMA4RT_ASSERT(dims.size() <= size_t(kMaxRank));
    for (int64_t d : dims) shape[rank++] = d;
    stride0 = 1;
    for (int i = 1; i < rank; ++i) stride0 *= shape[i];
  }

  explicit operator bool() const { return data != nullptr; }
  int64_t size(int dim) const { return shape[dim]; }
  int64_t row_size() const {  // elements of one index of dimension 0
    int64_t n = 1;
    for (int i = 1; i < rank; ++i) n *= shape[i];
    return n;
  }
  int64_t numel() const { return rank == 0 ? 0 : shape[0] * row_size(); }
  bool contiguous() const { return stride0 == row_size(); }

  template <class T>
  T* ptr() const {
    return static_cast<T*>(data);
  }
  template <class T>
  T* row(int64_t i) const {
    return static_cast<T*>(data) + i * stride0;
  }

  // Columns [begin, begin + count) of a [T, N] tensor; shares the data.
  Tensor columns(int64_t begin, int64_t count) const {
    LLAMA4RT_ASSERT(rank == 2 && begin >= 0 && begin + count <= shape[1]);
    Tensor view = *this;
    view.data = static_cast<char*>(data) + begin * int64_t(dtype_size(dtype));
    view.shape[1] = count;
    return view;
  }
  // Rows [begin, begin + count); shares the data.
  Tensor rows(int64_t begin, int64_t count) const {
    LLAMA4RT_ASSERT(begin >= 0 && begin + count <= shape[0]);
    Tensor view = *this;
    view.data = static_cast<char*>(data) + begin * stride0 * int64_t(dtype_size(dtype));
    view.shape[0] = count;
    return view;
  }

  // "F32 [3, 5120]", for error messages.
  std::string describe() const {
    std::string text(dtype_name(dtype));
    text += " [";
    for (int i = 0; i < rank; ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + "]";
  }
};

}  // namespace llama4rt
