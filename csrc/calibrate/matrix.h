// Matrix: one weight of a layer in memory, packed as in an engine file for the CPU, so that the CPU's ops compute with
// it; and read back row by row.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "weights/pack.h"
#include "weights/weight.h"

namespace llama4rt::calibrate {

class Matrix {
 public:
  // shape: kind, num_experts, n, k, group_size, scale_dtype; its pointers are ignored. Zeros until rows are packed;
  // memory is taken when they are.
  explicit Matrix(const Weight& shape, bool offsets = false);

  const Weight& view() const { return view_; }  // pointers into this matrix
  int64_t bytes() const { return bytes(view_, view_.offsets != nullptr); }
  static int64_t bytes(const Weight& shape, bool offsets);

  // Row i of the source becomes stored row rows[i] of the expert. Throw kCheckpoint as weights/pack.h does.
  void pack(int64_t expert, std::span<const int64_t> rows, const SourceMatrix& source, ThreadPool& pool,
            const std::string& what);
  void pack_codes(int64_t expert, std::span<const int64_t> rows, const CodeRows& source, ThreadPool& pool,
                  const std::string& what);

  // Of a bf16 matrix: out[i, :] = stored row rows[i].   out: [rows, k]
  void read_values(float* out, int64_t expert, std::span<const int64_t> rows, ThreadPool& pool) const;
  // Of codes: what pack_codes() took.   codes: [rows, k]; scales, offsets: [rows, groups], offsets only where there are
  void read_codes(uint8_t* codes, float* scales, float* offsets, int64_t expert,
                  std::span<const int64_t> rows, ThreadPool& pool) const;

 private:
  struct Free {
    void operator()(std::byte* p) const;
  };
  class Blocks;
  PackSpec pack_spec() const;

  Weight view_;
  std::unique_ptr<std::byte, Free> memory_;
};

}  // namespace llama4rt::calibrate
