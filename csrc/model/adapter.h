// Adapter: the low-rank factors of one fine-tune of the model, packed for the kernels of a CPU. Immutable, and shared
// by the requests that use it; it belongs to no engine, but to models of these sizes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "base/sha256.h"
#include "format/model_config.h"
#include "ops/lora.h"

namespace llama4rt {

class Adapter {
 public:
  // The products of a layer that an adapter may change.
  enum class Product : uint8_t { kQkv, kO };
  static constexpr size_t kNumProducts = 2;

  // scale * b a is added to a matrix of the checkpoint: "q", "k", "v" or "o" of a layer.
  struct Change {
    int64_t layer = 0;
    std::string matrix;
    const float* a = nullptr;  // [rank, K]
    const float* b = nullptr;  // [N, rank]
    int64_t rank = 0, k = 0, n = 0;
    double scale = 1;
  };

  // Rounds factors to bf16. Throws kConfig for what the model does not have and for factors of other sizes than its
  // own, kCheckpoint for numbers that are not finite.
  Adapter(const ModelConfig& config, std::vector<Change> changes);

  // Null: it changes nothing there.
  const LoraFactors* factors(size_t layer, Product product) const {
    const auto& found = factors_[layer * kNumProducts + size_t(product)];
    return found ? &*found : nullptr;
  }
  int64_t bytes() const { return bytes_; }
  // Of all that decides what it computes: equal ones compute the same.
  const Sha256Digest& digest() const { return digest_; }
  bool fits(const ModelConfig& config) const;

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  Weight reserved(int64_t n, int64_t k);
  void pack_into(const Weight& to, int64_t first_row, const float* data, int64_t rows,
                 const std::string& what);
  void add(Product product, const std::vector<const Change*>& changes);

  const int64_t layers_, hidden_, q_dim_, kv_dim_;
  std::vector<std::unique_ptr<LoraFactors>> factors_;  // [layers * kNumProducts]
  std::vector<std::unique_ptr<std::byte, Free>> memory_;
  int64_t bytes_ = 0;
  Sha256Digest digest_{};
};

}  // namespace llama4rt
