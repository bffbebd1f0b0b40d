// Workspace: the arena for the activations of a step. Sized once; a Frame gives back everything taken inside
// a scope.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/tensor.h"

namespace llama4rt {

class Device;

class Workspace {
 public:
  // `device` outlives the workspace.
  Workspace(Device& device, size_t bytes);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // Uninitialised fp32 [rows, columns], 64-byte aligned. Throws kInternal when the arena is too small: its
  // size comes from measuring the largest step (runtime/plan/measure_step.h).
  Tensor take(int64_t rows, int64_t columns) { return take(DType::kF32, rows, columns); }
  Tensor take(DType dtype, int64_t rows, int64_t columns);
  Tensor take_vector(DType dtype, int64_t size);

  size_t capacity() const { return capacity_; }
  size_t peak() const { return peak_; }  // most bytes ever in use
  static size_t bytes_for(DType dtype, int64_t elements);

  class Frame {
   public:
    explicit Frame(Workspace& ws) : ws_(ws), mark_(ws.used_) {}
    ~Frame() { ws_.used_ = mark_; }
    Frame(const Frame&) = delete;
    Frame& operator=(const Frame&) = delete;

   private:
    Workspace& ws_;
    size_t mark_;
  };
  [[nodiscard]] Frame frame() { return Frame(*this); }

 private:
  Device& device_;
  char* base_ = nullptr;
  size_t capacity_ = 0;
  size_t used_ = 0;
  size_t peak_ = 0;
};

}  // namespace llama4rt
