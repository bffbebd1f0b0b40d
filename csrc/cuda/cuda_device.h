// CudaDevice: memory, copies and captured steps of one GPU, on one stream. Ops return when their kernels are
// submitted; plain copies wait. The same class runs on a GPU and in tests/simt_emulator, which replaces
// csrc/cuda/runtime.cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>

#include "cuda/cuda_ops.h"
#include "cuda/cuda_upload.h"
#include "cuda/runtime.h"
#include "ops/device.h"

namespace llama4rt {

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(int device, const DeviceOptions& options = {});

  Ops& ops() override { return ops_; }
  std::string name() const override;      // "cuda:0"
  std::string describe() const override;  // "cuda:0, NVIDIA H200, sm_90, 132 multiprocessors"

  void make_current() override;
  void* allocate(size_t bytes) override { return cuda::device_malloc(bytes); }
  void deallocate(void* p, size_t) override { cuda::device_free(p); }
  void copy_to_device(void* dst, const void* src, size_t bytes) override;
  void copy_to_host(void* dst, const void* src, size_t bytes) override;
  void zero(void* p, size_t bytes) override { stream_.fill(p, 0, bytes); }
  void upload(void* dst, const void* src, size_t bytes) override;
  void finish_upload() override;
  void reserve_scratch(const ScratchBytes& bytes) override;
  int64_t free_memory() const override { return int64_t(cuda::free_memory()); }

  void* allocate_staging(size_t bytes) override { return cuda::pinned_malloc(bytes); }
  void deallocate_staging(void* p) override { cuda::pinned_free(p); }
  void copy_to_device_async(void* dst, const void* staging, size_t bytes) override {
    stream_.copy_to_device(dst, staging, bytes);
  }
  void copy_to_host_async(void* staging, const void* src, size_t bytes) override {
    stream_.copy_to_host(staging, src, bytes);
  }
  uint64_t mark() override;
  void wait_for(uint64_t mark) override { marks_[mark % kMarks].synchronize(); }

  // The first run of a key is direct, so that scratch has grown and kernels are loaded; the second is
  // recorded. Of many records those that were not used for longest are dropped.
  void run_captured(uint64_t key, const std::function<void()>& submit) override;
  void forget_captured() override;
  int num_graphs() const { return int(graphs_.size()); }

  // --- for CudaOps
  const cuda::DeviceInfo& info() const { return info_; }
  const DeviceOptions& options() const { return options_; }
  cuda::Stream& stream() { return stream_; }
  // Memory of one op call, 256-byte aligned and not initialised. Every op gets the same bytes: ops run in
  // order, so the next may overwrite what one leaves. Grows when more is asked for than ever before, after
  // waiting for the stream; not while a graph is captured, because its kernels keep the pointer.
  void* scratch(size_t bytes);
  // Counters for blocks that meet: zero when a kernel starts, and every kernel leaves them zero. Grows
  // likewise.
  uint32_t* tickets(size_t bytes);
  ScratchBytes scratch_bytes() const { return {int64_t(scratch_.size()), int64_t(tickets_.size())}; }

 private:
  void grow(cuda::DeviceBuffer& buffer, size_t bytes, const char* what);

  // The records' bytes fit into what the plan keeps for the driver (memory_plan.cpp), and the oldest goes first.
  static constexpr size_t kMostGraphBytes = size_t(512) << 20;
  static constexpr size_t kMostGraphs = 256;
  struct Captured {
    std::unique_ptr<cuda::Graph> graph;  // null: seen once
    uint64_t last_use = 0;
  };
  void make_room_for_graph();

  const int device_;
  const cuda::DeviceUse use_;  // before everything that lives on the device
  const DeviceOptions options_;
  const cuda::DeviceInfo info_;
  cuda::Stream stream_;
  bool capturing_ = false;
  std::unique_ptr<Uploader> uploader_;  // while weights come in
  cuda::DeviceBuffer scratch_, tickets_;
  std::unordered_map<uint64_t, Captured> graphs_;
  uint64_t num_uses_ = 0;  // of graphs_
  // Mark n is the latest record of marks_[n % kMarks]: waiting for an old one may wait for a newer.
  static constexpr uint64_t kMarks = 16;
  cuda::Event marks_[kMarks];
  uint64_t num_marks_ = 0;
  CudaOps ops_;
};

}  // namespace llama4rt
