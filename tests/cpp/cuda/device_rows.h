// Rows and vectors in device memory for tests of row kernels, aligned to 16 bytes or not: a kernel may take
// another path, but must give the same bits.
#pragma once

#include <cstring>

#include "cuda/simt_test.h"

namespace llama4rt::test {

// A copy of `host` whose rows start on 16 bytes when `aligned`, else not all of them. Gaps are NaN.
class DeviceRows {
 public:
  DeviceRows(cuda::Stream& stream, const Matrix& host, bool aligned)
      : columns_(host.columns()),
        stride_(aligned ? round_up(host.columns() + 1, int64_t(4))
                        : round_up(host.columns(), int64_t(4)) + 1),
        staged_(size_t(host.rows() * stride_), std::numeric_limits<float>::quiet_NaN()),
        buffer_(std::max<size_t>(staged_.size(), 1) * 4) {
    for (int64_t i = 0; i < host.rows(); ++i)
      std::copy_n(host.row(i), columns_, staged_.begin() + i * stride_);
    stream.copy_to_device(buffer_.data(), staged_.data(), staged_.size() * 4);
    stream.synchronize();
  }
  Tensor view() const {
    Tensor t(buffer_.data(), DType::kF32, {int64_t(staged_.size()) / stride_, columns_});
    t.stride0 = stride_;
    return t;
  }
  // The rows now; throws when something was written between them.
  Matrix fetch(cuda::Stream& stream) {
    stream.copy_to_host(staged_.data(), buffer_.data(), staged_.size() * 4);
    stream.synchronize();
    Matrix out(int64_t(staged_.size()) / stride_, columns_);
    for (int64_t i = 0; i < out.rows(); ++i) {
      std::copy_n(staged_.begin() + i * stride_, columns_, out.row(i));
      for (int64_t j = columns_; j < stride_; ++j)
        if (!std::isnan(staged_[size_t(i * stride_ + j)]))
          throw Error(ErrorKind::kInternal, error_text("written between row ", i, " and the next"));
    }
    return out;
  }

 private:
  int64_t columns_, stride_;
  std::vector<float> staged_;
  cuda::DeviceBuffer buffer_;
};

template <class T>
class DeviceVector {
 public:
  DeviceVector(cuda::Stream& stream, const std::vector<T>& values)
      : size_(int64_t(values.size())), buffer_(std::max<size_t>(values.size(), 1) * sizeof(T)) {
    stream.copy_to_device(buffer_.data(), values.data(), values.size() * sizeof(T));
    stream.synchronize();
    as_if_a_kernel_wrote(buffer_);
  }
  Tensor view(DType dtype) const { return Tensor(buffer_.data(), dtype, {size_}); }
  void* data() const { return buffer_.data(); }
  std::vector<T> fetch(cuda::Stream& stream) const {
    std::vector<T> out(static_cast<size_t>(size_));
    stream.copy_to_host(out.data(), buffer_.data(), out.size() * sizeof(T));
    stream.synchronize();
    return out;
  }

 private:
  int64_t size_;
  cuda::DeviceBuffer buffer_;
};

inline DeviceVector<float> row_on_device(cuda::Stream& stream, const Matrix& m) {
  return DeviceVector<float>(stream, std::vector<float>(m.row(0), m.row(0) + m.columns()));
}

}  // namespace llama4rt::test
