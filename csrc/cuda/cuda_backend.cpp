#include "cuda/cuda_backend.h"

namespace llama4rt {

void no_cuda_kernel(const char* op) {
  throw Error(ErrorKind::kInternal,
              error_text("cuda: ", op, " has no kernel yet; use device=\"cpu\" to run this model"));
}

CudaBackend::CudaBackend(int device) : device_(device) {
  cuda::set_device(device);
  info_ = cuda::device_info(device);
}

std::string CudaBackend::name() const { return error_text("cuda:", device_); }
std::string CudaBackend::describe() const {
  return error_text(name(), ", ", info_.name, ", sm_", info_.major, info_.minor, ", ", info_.multiprocessors,
                    " multiprocessors");
}

void* CudaBackend::allocate(size_t bytes) { return cuda::device_malloc(bytes); }
void CudaBackend::deallocate(void* p, size_t) { cuda::device_free(p); }
void CudaBackend::copy_to_device(void* dst, const void* src, size_t bytes) {
  if (bytes == 0) return;
  stream_.copy_to_device(dst, src, bytes);
  stream_.synchronize();
}
void CudaBackend::copy_to_host(void* dst, const void* src, size_t bytes) {
  if (bytes > 0) stream_.copy_to_host(dst, src, bytes);
  stream_.synchronize();
}

void CudaBackend::grow(cuda::DeviceBuffer& buffer, size_t bytes, const char* what) {
  LLAMA4RT_CHECK(kInternal, !capturing_, "cuda: ", bytes, " bytes of ", what,
                 " are asked for while a graph is captured; ", buffer.size(), " are reserved");
  stream_.synchronize();          // kernels may still use the old buffer
  buffer = cuda::DeviceBuffer();  // first, so that both are never in memory together
  buffer = cuda::DeviceBuffer(bytes);
}

void* CudaBackend::scratch(size_t bytes) {
  if (scratch_.size() < bytes) grow(scratch_, bytes, "scratch");
  return scratch_.data();
}

uint32_t* CudaBackend::tickets(size_t bytes) {
  if (tickets_.size() < bytes) {
    grow(tickets_, bytes, "tickets");
    stream_.fill(tickets_.data(), 0, bytes);
  }
  return tickets_.as<uint32_t>();
}

std::unique_ptr<Backend> make_cuda_backend(int device) { return std::make_unique<CudaBackend>(device); }

}  // namespace llama4rt
