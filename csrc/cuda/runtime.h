// The CUDA runtime as this project uses it: streams, events, graphs and memory, owned by RAII. No CUDA header
// is seen here. runtime.cpp implements it with cudart; tests/simt_emulator/host_runtime.cpp with queues.
// Errors are thrown as Error(kInternal) that name the call, or the kernel; as DeviceLost when nothing works any more.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "cuda/launch_shape.h"

namespace llama4rt::cuda {

struct DeviceInfo {
  std::string name;  // "NVIDIA H200"
  int major = 0;     // compute capability
  int minor = 0;
  int multiprocessors = 0;
  size_t memory = 0;            // bytes
  size_t shared_per_block = 0;  // bytes, when asked for
  int clock_khz = 0;            // of multiprocessors; these three are 0 when unknown
  int memory_clock_khz = 0;
  int memory_bus_bits = 0;
};
// The driver, this build, and whether they fit together; never throws.
struct SystemInfo {
  int driver = 0;       // CUDA version the driver supports, 13000 for 13.0; 0: no driver
  int runtime = 0;      // CUDA version of this build
  int devices = 0;      // 0 when there is no driver, one that is too old, or no device
  std::string problem;  // why there is no device, in words; empty when there are some
};
SystemInfo system_info();
DeviceInfo device_info(int device);
void set_device(int device);
// Bytes that device_malloc could still give, about.
size_t free_memory();

// Whoever works on a device holds one, before and after everything else that it has there. Throws when the device
// failed and others have not let go of it yet. The last one to go makes a device that failed usable again.
class DeviceUse {
 public:
  explicit DeviceUse(int device);
  ~DeviceUse();
  DeviceUse(const DeviceUse&) = delete;
  DeviceUse& operator=(const DeviceUse&) = delete;

 private:
  const int device_;
};

class Event;

// Work in order of submission. Movable handles are not needed: one owner per stream.
class Stream {
 public:
  // overlap: a kernel's blocks may take their places before the kernel before it has ended
  // (device/overlap.cuh), on devices whose code knows how.
  explicit Stream(bool overlap = true);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Waits for everything submitted and throws what went wrong in it.
  void synchronize();
  // Work submitted from now on starts after what `event` recorded.
  void wait(const Event& event);
  void copy_to_device(void* dst, const void* src, size_t bytes);
  void copy_to_host(void* dst, const void* src, size_t bytes);
  void copy_on_device(void* dst, const void* src, size_t bytes);
  void fill(void* dst, int byte, size_t bytes);
  void* handle() const { return handle_; }
  bool overlaps() const { return overlaps_; }

 private:
  void* handle_ = nullptr;
  bool overlaps_ = false;
};

class Event {
 public:
  Event();
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  // Marks the work submitted to `stream` so far.
  void record(Stream& stream);
  // Waits until the marked work is done, and throws what went wrong before it. At once when nothing was
  // marked.
  void synchronize();
  void* handle() const { return handle_; }

 private:
  void* handle_ = nullptr;
};

// Work recorded once and launched many times, with the arguments and pointers it was recorded with.
class Graph {
 public:
  // Records what `submit` submits to `stream`; nothing runs.
  Graph(Stream& stream, const std::function<void()>& submit);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  void launch(Stream& stream);
  // Device memory that it took, about.
  size_t bytes() const { return bytes_; }

 private:
  void* handle_ = nullptr;
  size_t bytes_ = 0;
};

void* device_malloc(size_t bytes);
void device_free(void* p) noexcept;
void* pinned_malloc(size_t bytes);
void pinned_free(void* p) noexcept;

// Device memory with an owner.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(size_t bytes) : data_(device_malloc(bytes)), size_(bytes) {}
  ~DeviceBuffer() { device_free(data_); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  DeviceBuffer(DeviceBuffer&& o) noexcept : data_(o.data_), size_(o.size_) {
    o.data_ = nullptr;
    o.size_ = 0;
  }
  DeviceBuffer& operator=(DeviceBuffer&& o) noexcept {
    std::swap(data_, o.data_);
    std::swap(size_, o.size_);
    return *this;
  }

  void* data() const { return data_; }
  size_t size() const { return size_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

// Host memory that copies go through at full speed, with an owner.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(size_t bytes) : data_(pinned_malloc(bytes)), size_(bytes) {}
  ~PinnedBuffer() { pinned_free(data_); }
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;
  PinnedBuffer(PinnedBuffer&& o) noexcept : data_(o.data_), size_(o.size_) {
    o.data_ = nullptr;
    o.size_ = 0;
  }
  PinnedBuffer& operator=(PinnedBuffer&& o) noexcept {
    std::swap(data_, o.data_);
    std::swap(size_, o.size_);
    return *this;
  }

  void* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

// For launch.h: starts a kernel from pointers to its arguments.
void launch_raw(const char* name, const void* kernel, const LaunchShape& shape, Stream& stream,
                void** arguments);

}  // namespace llama4rt::cuda
