#include "cuda/cuda_device.h"

#include <algorithm>

#include "base/error.h"
#include "ops/ops.h"

namespace llama4rt {

namespace {
int selected(int device) {
  cuda::set_device(device);
  return device;
}
DeviceTraits cuda_traits(const DeviceOptions& options) {
  DeviceTraits traits = device_traits("cuda");
  traits.runs_async = options.run_ahead;
  return traits;
}
}  // namespace

// The stream belongs to the device that is current when it is made.
CudaDevice::CudaDevice(int device, const DeviceOptions& options)
    : Device(cuda_traits(options)),
      device_(selected(device)),
      use_(device),
      options_(options),
      info_(cuda::device_info(device)),
      stream_(options.overlap_kernels),
      ops_(*this) {}

std::string CudaDevice::name() const { return error_text("cuda:", device_); }
std::string CudaDevice::describe() const {
  return error_text(name(), ", ", info_.name, ", sm_", info_.major, info_.minor, ", ", info_.multiprocessors,
                    " multiprocessors");
}

void CudaDevice::make_current() { cuda::set_device(device_); }

void CudaDevice::copy_to_device(void* dst, const void* src, size_t bytes) {
  if (bytes == 0) return;
  stream_.copy_to_device(dst, src, bytes);
  stream_.synchronize();
}
void CudaDevice::copy_to_host(void* dst, const void* src, size_t bytes) {
  if (bytes > 0) stream_.copy_to_host(dst, src, bytes);
  stream_.synchronize();
}

uint64_t CudaDevice::mark() {
  marks_[++num_marks_ % kMarks].record(stream_);
  return num_marks_;
}

void CudaDevice::grow(cuda::DeviceBuffer& buffer, size_t bytes, const char* what) {
  LLAMA4RT_CHECK(kInternal, !capturing_, "cuda: ", bytes, " bytes of ", what,
                 " are asked for while a graph is captured; ", buffer.size(), " are reserved");
  forget_captured();              // graphs hold the old address
  stream_.synchronize();          // kernels may still use it
  buffer = cuda::DeviceBuffer();  // first, so that both are never in memory together
  buffer = cuda::DeviceBuffer(bytes);
}

void* CudaDevice::scratch(size_t bytes) {
  if (scratch_.size() < bytes) grow(scratch_, bytes, "scratch");
  return scratch_.data();
}

uint32_t* CudaDevice::tickets(size_t bytes) {
  if (tickets_.size() < bytes) {
    grow(tickets_, bytes, "tickets");
    stream_.fill(tickets_.data(), 0, bytes);
  }
  return tickets_.as<uint32_t>();
}

void CudaDevice::upload(void* dst, const void* src, size_t bytes) {
  if (!uploader_) uploader_ = std::make_unique<Uploader>(stream_);
  uploader_->copy(dst, src, bytes);
}
void CudaDevice::finish_upload() {
  stream_.synchronize();
  uploader_.reset();
}

void CudaDevice::reserve_scratch(const ScratchBytes& bytes) {
  scratch(size_t(bytes.values));
  tickets(size_t(bytes.tickets));
}

void CudaDevice::run_captured(uint64_t key, const std::function<void()>& submit) {
  if (!graphs_.contains(key)) make_room_for_graph();
  const auto [at, first] = graphs_.try_emplace(key);
  Captured& captured = at->second;
  captured.last_use = ++num_uses_;
  if (first) return submit();
  if (!captured.graph) {
    capturing_ = true;
    try {
      captured.graph = std::make_unique<cuda::Graph>(stream_, submit);
    } catch (...) {
      capturing_ = false;
      throw;
    }
    capturing_ = false;
  }
  captured.graph->launch(stream_);
}

// For one key more, and the record that it will have.
void CudaDevice::make_room_for_graph() {
  size_t bytes = 0;
  for (const auto& [key, captured] : graphs_)
    if (captured.graph) bytes += captured.graph->bytes();
  while (!graphs_.empty() && (graphs_.size() >= kMostGraphs || bytes > kMostGraphBytes)) {
    const auto oldest = std::min_element(graphs_.begin(), graphs_.end(), [](const auto& a, const auto& b) {
      return a.second.last_use < b.second.last_use;
    });
    if (oldest->second.graph) {
      bytes -= oldest->second.graph->bytes();
      stream_.synchronize();  // it may still run
    }
    graphs_.erase(oldest);
  }
}

void CudaDevice::forget_captured() {
  if (graphs_.empty()) return;
  stream_.synchronize();  // they may still run
  graphs_.clear();
}

CudaOps::CudaOps(CudaDevice& device) : Ops(device.traits()), device_(device) {}
cuda::Stream& CudaOps::stream() { return device_.stream(); }
void* CudaOps::scratch(size_t bytes) { return device_.scratch(bytes); }
uint32_t* CudaOps::tickets(size_t bytes) { return device_.tickets(bytes); }

}  // namespace llama4rt
