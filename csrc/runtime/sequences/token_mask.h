// TokenMask: which tokens may come next in one sequence. A grammar outside fills it, in another thread, while
// the model computes the logits it will be applied to; the sampler waits for it only then. What a grammar is,
// is not known here.
//
// Whoever knows the grammar may also offer guesses of the next tokens, with the mask behind each of them: where the
// engine speculates (runtime/speculation), such a sequence takes its guesses from there.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
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

  struct Offer {
    std::vector<int32_t> guesses;   // of the tokens after the latest one
    std::vector<uint8_t> evidence;  // [guesses] see runtime/speculation/drafter.h
    size_t rows = 0;                // guesses whose further bits are filled; of the first ones
  };
  static constexpr size_t kMostRows = 16;
  // What may come behind guess `row` and those before it. For the writer, between publish() and offer().
  std::span<uint32_t> further_bits(size_t row);
  // After publish(), once; without effect when the bits have expired meanwhile.
  void offer(Offer offer);
  void will_offer(bool will) { will_offer_ = will; }  // before the request is submitted
  // The offer for the next token; null when none comes in time.
  const Offer* wait_for_offer(std::chrono::milliseconds patience);
  // How many rows are worth filling. Set by the engine.
  std::atomic<int> wanted_rows = 4;

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
  std::vector<uint32_t> further_bits_;  // [kMostRows, words], from the first use
  bool will_offer_ = false;
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  State state_ = State::kStale;
  std::string error_;
  std::optional<Offer> offer_;
};

}  // namespace llama4rt
