// WeightCollector: asks a source for tensors by name and collects what is wrong, so that one error
// tells the whole story. Used by the load() functions of weights.cpp and vision_weights.cpp.
#pragma once

#include <string>

#include "base/error.h"
#include "base/tensor.h"
#include "format/quant.h"
#include "format/weight_source.h"

namespace llama4rt {

class WeightCollector {
 public:
  explicit WeightCollector(const WeightSource& source) : file_(source) {}

  // F32 [size].
  Tensor vector(const std::string& name, int64_t size) {
    if (!present(name)) return {};
    const Tensor t = file_.tensor(name);
    if (t.dtype != DType::kF32 || t.rank != 1 || t.size(0) != size)
      problem(name, error_text("is ", t.describe(), "; expected F32 [", size, "]"));
    return t;
  }

  // F32 [rows, columns].
  Tensor table(const std::string& name, int64_t rows, int64_t columns) {
    if (!present(name)) return {};
    const Tensor t = file_.tensor(name);
    if (t.dtype != DType::kF32 || t.rank != 2 || t.size(0) != rows || t.size(1) != columns)
      problem(name, error_text("is ", t.describe(), "; expected F32 [", rows, ", ", columns, "]"));
    return t;
  }

  Weight matrix(const std::string& name, int64_t n, int64_t k) { return stack(name, 1, n, k); }

  Weight row_major(const std::string& name, int64_t n, int64_t k) {
    return stack(name, 1, n, k, Layout::kRowMajor);
  }

  Weight stack(const std::string& name, int64_t experts, int64_t n, int64_t k) {
    return stack(name, experts, n, k, file_.layout());
  }

  Weight stack(const std::string& name, int64_t experts, int64_t n, int64_t k, Layout layout) {
    if (!present(name)) return {};
    const Weight w = file_.weight(name);
    if (w.layout != layout || w.num_experts != experts || w.n != n || w.k != k)
      problem(name, error_text("is ", layout_name(w.layout), " [", w.num_experts, ", ", w.n, ", ", w.k,
                               "]; expected ", layout_name(layout), " [", experts, ", ", n, ", ", k, "]"));
    return w;
  }

  Weight router(const std::string& name, int64_t n, int64_t k) {
    const Weight w = matrix(name, n, k);
    if (w && w.kind != WeightKind::kBF16)
      problem(name, error_text("is ", weight_kind_name(w.kind), "; a router must be bf16"));
    return w;
  }

  // Throws kEngineFile with one line for every problem found.
  void finish() const {
    LLAMA4RT_CHECK(kEngineFile, problems_.empty(), file_.path(), ": ", count_,
                   " tensors do not match the model config", problems_);
  }

 private:
  bool present(const std::string& name) {
    if (file_.has(name)) return true;
    problem(name, "is missing");
    return false;
  }
  void problem(const std::string& name, const std::string& text) {
    ++count_;
    problems_ += "\n  " + name + " " + text;
  }

  const WeightSource& file_;
  std::string problems_;
  int count_ = 0;
};

}  // namespace llama4rt
