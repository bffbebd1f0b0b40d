// The two devices that tests of products compare, and a stream for what they send there.
#pragma once

#include "cuda/cuda_device.h"
#include "reference/reference_ops.h"

namespace llama4rt::test {

struct Devices {
  cuda::Stream stream;
  CudaDevice cuda{0};
  ReferenceDevice reference;
};

inline Devices& devices() {
  static Devices d;
  return d;
}

}  // namespace llama4rt::test
