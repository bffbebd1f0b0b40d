// The two backends that tests of products compare, and a stream for what they send there.
#pragma once

#include "cuda/cuda_backend.h"
#include "reference/reference_backend.h"

namespace llama4rt::test {

struct Devices {
  cuda::Stream stream;
  CudaBackend cuda{0};
  ReferenceBackend reference;
};

inline Devices& devices() {
  static Devices d;
  return d;
}

}  // namespace llama4rt::test
