// TokenMask: which tokens may come next in one sequence. A grammar outside fills it, in another thread, while
// the model computes the logits it will be applied to; the sampler waits for it only then. What a grammar is,
// is not known here.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace llama4rt {

class TokenMask {
 public:
  // vocab_size: of the engine. Every token is forbidden until the first publish().
  explicit TokenMask(int64_t vocab_size) : vocab_size_(vocab_size), bits_(size_t((vocab_size + 31) / 32)) {}

  int64_t vocab_size() const { return vocab_size_; }
  // Bit i % 32 of word i / 32: token i may come. For the writer, between expire() and publish().
  std::span<uint32_t> bits() { return bits_; }

  // The sequence has grown: the bits are those of the token before.
  void expire();
  void publish();
  // Instead of publish(): the sequence ends with this error.
  void fail(const std::string& error);

  // Waits until the bits are those of the next token. Empty: they are; else why they will not come.
  std::optional<std::string> wait(std::chrono::milliseconds patience);

 private:
  enum class State : uint8_t { kStale, kReady, kFailed };

  const int64_t vocab_size_;
  std::vector<uint32_t> bits_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  State state_ = State::kStale;
  std::string error_;
};

}  // namespace llama4rt
