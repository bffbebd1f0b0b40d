#include "runtime/runner/dummy_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "base/error.h"
#include "runtime/runner/weight_placement.h"
#include "weights/layout.h"

namespace llama4rt {
namespace {

// One pool of random bits and one of random numbers, read from another place for every tensor and every lap;
// laps of a prime length never fall into step with tiles.
constexpr int64_t kPoolBytes = int64_t(8) << 20;
constexpr int64_t kLap = 8'388'593;  // the largest prime below

class Filler {
 public:
  explicit Filler(Device& device) : device_(device), bits_(size_t(kPoolBytes)) {
    for (size_t i = 0; i < bits_.size(); i += 8) {
      const uint64_t word = random_();
      std::memcpy(&bits_[i], &word, 8);
    }
  }

  // Uniform codes of a scaled kind; of a float kind those that mean finite numbers. Of integers the lowest, which has no
  // opposite, is left out: weights whose mean is not 0 turn all tokens into one direction, and routers into one expert.
  void codes(WeightKind kind, char* to, int64_t bytes) {
    const int bits = weight_format(kind).bits;
    const bool integers = weight_format(kind).meaning == CodeMeaning::kInteger;
    const auto code_of = [&](uint32_t code) {
      if (!integers) return finite_code(kind, code);
      return code == 0 ? uint32_t(weight_format(kind).zero) : code;
    };
    std::vector<char> pool = bits_;
    for (char& byte : pool) {
      uint32_t codes = 0;
      for (int bit = 0; bit < 8; bit += bits)
        codes |= code_of((uint32_t(uint8_t(byte)) >> bit) & code_mask(kind)) << bit;
      byte = char(codes);
    }
    repeat(to, bytes, pool, kLap, 1);
  }
  void bf16_numbers(char* to, int64_t bytes, float deviation) {
    std::vector<char> pool(size_t(std::min(bytes, kPoolBytes)));
    std::normal_distribution<float> normal(0, deviation);
    for (size_t i = 0; i + 1 < pool.size(); i += 2) {
      const bf16 value = to_bf16(normal(random_));
      std::memcpy(&pool[i], &value, 2);
    }
    repeat(to, bytes, pool, int64_t(pool.size()) - (bytes > kPoolBytes ? 2 * 127 : 0), 2);
  }
  void constant(char* to, int64_t bytes, const void* element, size_t size) {
    std::vector<char> pool(size_t(std::min(bytes, kPoolBytes)));
    for (size_t i = 0; i + size <= pool.size(); i += size) std::memcpy(&pool[i], element, size);
    repeat(to, bytes, pool, int64_t(pool.size()), int64_t(pool.size()));
  }

 private:
  // Laps over the first `lap` bytes of the pool, the first from a random multiple of `unit` on.
  void repeat(char* to, int64_t bytes, const std::vector<char>& pool, int64_t lap, int64_t unit) {
    int64_t from = int64_t(random_() % uint64_t(lap / unit)) * unit;
    for (int64_t at = 0; at < bytes;) {
      const int64_t count = std::min(lap - from, bytes - at);
      device_.upload(to + at, pool.data() + from, size_t(count));
      at += count;
      from = 0;
    }
  }

  Device& device_;
  std::mt19937_64 random_{4};
  std::vector<char> bits_;
};

// A norm's gain is one, so that activations keep their size.
bool is_gain(const std::string& name) { return name.ends_with("norm") || name.ends_with("norm.weight"); }

}  // namespace

int64_t DummyWeights::bytes(const ModelConfig& config, const WeightOptions& options) {
  int64_t total = 0;
  for (const TensorSpec& spec : model_tensors(config)) {
    const TensorBytes bytes = stored_bytes(spec, options);
    total += placed_bytes(bytes.data) + placed_bytes(bytes.scales);
  }
  return total;
}

DummyWeights::DummyWeights(const ModelConfig& config, const WeightOptions& options, Device& device)
    : config_(config), layout_(options.layout), device_(device), bytes_(bytes(config, options)) {
  base_ = static_cast<char*>(device.allocate(size_t(bytes_)));
  try {
    Filler fill(device);
    char* at = base_;
    for (const TensorSpec& spec : model_tensors(config)) {
      const TensorBytes bytes = stored_bytes(spec, options);
      char* const data = at;
      char* const scales = data + placed_bytes(bytes.data);
      at = scales + placed_bytes(bytes.scales);
      if (spec.is_plain()) {
        const float value = is_gain(spec.name) ? 1.0f : 0.0f;
        fill.constant(data, bytes.data, &value, sizeof value);
        tensors_.emplace(spec.name, spec.role == TensorRole::kTable
                                        ? Tensor(data, DType::kF32, {spec.n, spec.k})
                                        : Tensor(data, DType::kF32, {spec.n}));
        continue;
      }
      Weight w = stored_weight(spec, options);
      w.data = data;
      const float deviation = 1 / std::sqrt(float(w.k));  // a product has the size of its input
      if (w.quantized()) {
        fill.codes(w.kind, data, bytes.data);
        const bf16 scale = to_bf16(deviation / w.format().code_deviation);
        fill.constant(scales, bytes.scales, &scale, sizeof scale);
        w.scales = scales;
      } else {
        fill.bf16_numbers(data, bytes.data, spec.role == TensorRole::kEmbed ? 1.0f : deviation);
      }
      weights_.emplace(spec.name, w);
    }
    device.finish_upload();
  } catch (...) {
    device.deallocate(base_, size_t(bytes_));
    throw;
  }
}

DummyWeights::~DummyWeights() { device_.deallocate(base_, size_t(bytes_)); }

Weight DummyWeights::weight(std::string_view name) const {
  const auto at = weights_.find(name);
  LLAMA4RT_CHECK(kInternal, at != weights_.end(), "random weights: there is no weight ", name);
  return at->second;
}

Tensor DummyWeights::tensor(std::string_view name) const {
  const auto at = tensors_.find(name);
  LLAMA4RT_CHECK(kInternal, at != tensors_.end(), "random weights: there is no tensor ", name);
  return at->second;
}

}  // namespace llama4rt
