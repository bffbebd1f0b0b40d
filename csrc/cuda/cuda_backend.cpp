#include "cuda/cuda_backend.h"

#include <cstdlib>
#include <string_view>

namespace llama4rt {

void no_cuda_kernel(const char* op) {
  throw Error(ErrorKind::kInternal,
              error_text("cuda: ", op, " has no kernel yet; use device=\"cpu\" to run this model"));
}

namespace {
int selected(int device) {
  cuda::set_device(device);
  return device;
}
}  // namespace

// The stream belongs to the device that is current when it is made.
CudaBackend::CudaBackend(int device) : device_(selected(device)), info_(cuda::device_info(device)) {}

std::string CudaBackend::name() const { return error_text("cuda:", device_); }
std::string CudaBackend::describe() const {
  return error_text(name(), ", ", info_.name, ", sm_", info_.major, info_.minor, ", ", info_.multiprocessors,
                    " multiprocessors");
}

void CudaBackend::enter_thread() { cuda::set_device(device_); }

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

bool CudaBackend::works_behind() const {
  const char* const choice = std::getenv("LLAMA4RT_CUDA_AHEAD");
  return !choice || std::string_view(choice) != "0";
}

uint64_t CudaBackend::mark() {
  marks_[++num_marks_ % kMarks].record(stream_);
  return num_marks_;
}

void CudaBackend::grow(cuda::DeviceBuffer& buffer, size_t bytes, const char* what) {
  LLAMA4RT_CHECK(kInternal, !capturing_, "cuda: ", bytes, " bytes of ", what,
                 " are asked for while a graph is captured; ", buffer.size(), " are reserved");
  forget_captured();              // graphs hold the old address
  stream_.synchronize();          // kernels may still use it
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

void CudaBackend::upload(void* dst, const void* src, size_t bytes) {
  if (!uploader_) uploader_ = std::make_unique<Uploader>(stream_);
  uploader_->copy(dst, src, bytes);
}
void CudaBackend::finish_upload() {
  stream_.synchronize();
  uploader_.reset();
}

void CudaBackend::reserve_scratch(const ScratchBytes& bytes) {
  scratch(size_t(bytes.values));
  tickets(size_t(bytes.tickets));
}

void CudaBackend::run_captured(uint64_t key, const std::function<void()>& submit) {
  const auto [at, first] = graphs_.try_emplace(key);
  if (first) return submit();
  if (!at->second) {
    capturing_ = true;
    try {
      at->second = std::make_unique<cuda::Graph>(stream_, submit);
    } catch (...) {
      capturing_ = false;
      throw;
    }
    capturing_ = false;
  }
  at->second->launch(stream_);
}

void CudaBackend::forget_captured() {
  if (graphs_.empty()) return;
  stream_.synchronize();  // they may still run
  graphs_.clear();
}

}  // namespace llama4rt
