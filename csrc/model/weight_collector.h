// WeightCollector: looks up the tensors of a list (shape.h) in a source and collects what is wrong, so that
// one error tells the whole story. Used by the load() functions of weights.cpp and vision_weights.cpp.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/tensor.h"
#include "format/weight_source.h"
#include "model/shape.h"
#include "weights/weight.h"

namespace llama4rt {

class WeightCollector {
 public:
  WeightCollector(const WeightSource& source, std::vector<TensorSpec> tensors) : file_(source) {
    for (TensorSpec& spec : tensors) {
      std::string name = spec.name;
      wanted_.emplace(std::move(name), std::move(spec));
    }
  }

  // F32 [N] or [N, K], as listed.
  Tensor plain(const std::string& name) {
    const TensorSpec& spec = take(name);
    if (!present(name)) return {};
    const Tensor t = file_.tensor(name);
    const std::vector<int64_t> shape = spec.plain_shape();
    bool right = t.dtype == DType::kF32 && t.rank == int(shape.size());
    for (int i = 0; right && i < t.rank; ++i) right = t.size(i) == shape[size_t(i)];
    if (!right)
      problem(name, error_text("is ", t.describe(), "; expected F32 [", spec.n,
                               shape.size() > 1 ? error_text(", ", spec.k) : std::string(), "]"));
    return t;
  }

  // A matrix [N, K], or a stack [E, N, K] of them, in the layout that its role asks for.
  Weight weight(const std::string& name) {
    const TensorSpec& spec = take(name);
    if (!present(name)) return {};
    const Weight w = file_.weight(name);
    const Layout layout = spec.role == TensorRole::kEmbed ? Layout::kRowMajor : file_.layout();
    if (w.layout != layout || w.num_experts != spec.experts || w.n != spec.n || w.k != spec.k)
      problem(name, error_text("is ", layout_name(w.layout), " [", w.num_experts, ", ", w.n, ", ", w.k,
                               "]; expected ", layout_name(layout), " [", spec.experts, ", ", spec.n, ", ",
                               spec.k, "]"));
    else if (spec.role == TensorRole::kRouter && w.kind != WeightKind::kBF16)
      problem(name, error_text("is ", weight_kind_name(w.kind), "; a router must be bf16"));
    return w;
  }

  // Throws kEngineFile with one line for every problem found. Every tensor of the list must have been asked
  // for.
  void finish() const {
    LLAMA4RT_CHECK(kEngineFile, problems_.empty(), file_.path(), ": ", count_,
                   " tensors do not match the model config", problems_);
    LLAMA4RT_CHECK(kInternal, wanted_.empty(), "the model does not use ", wanted_.begin()->first);
  }

 private:
  const TensorSpec& take(const std::string& name) {
    const auto at = wanted_.find(name);
    LLAMA4RT_CHECK(kInternal, at != wanted_.end(), name, " is not in the list of the model's tensors");
    spec_ = std::move(at->second);
    wanted_.erase(at);
    return spec_;
  }
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
  std::map<std::string, TensorSpec> wanted_;  // not asked for yet
  TensorSpec spec_;                           // the one asked for last
  std::string problems_;
  int count_ = 0;
};

}  // namespace llama4rt
