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

void CudaBackend::reserve_scratch(size_t partial_bytes, size_t ticket_bytes) {
  if (partials_.size() >= partial_bytes && tickets_.size() >= ticket_bytes) return;
  stream_.synchronize();  // kernels may still use the old buffers
  if (partials_.size() < partial_bytes) partials_ = cuda::DeviceBuffer(partial_bytes);
  if (tickets_.size() < ticket_bytes) {
    tickets_ = cuda::DeviceBuffer(ticket_bytes);
    stream_.fill(tickets_.data(), 0, ticket_bytes);
  }
}

std::unique_ptr<Backend> make_cuda_backend(int device) { return std::make_unique<CudaBackend>(device); }

}  // namespace llama4rt
