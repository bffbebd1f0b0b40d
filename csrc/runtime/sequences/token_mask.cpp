#include "runtime/sequences/token_mask.h"

namespace llama4rt {

void TokenMask::expire() {
  const std::lock_guard lock(mutex_);
  if (state_ == State::kReady) state_ = State::kStale;
}

void TokenMask::publish() {
  const std::lock_guard lock(mutex_);
  if (state_ == State::kStale) state_ = State::kReady;
  changed_.notify_all();
}

void TokenMask::fail(const std::string& error) {
  const std::lock_guard lock(mutex_);
  if (state_ == State::kFailed) return;
  state_ = State::kFailed;
  error_ = error;
  changed_.notify_all();
}

std::optional<std::string> TokenMask::wait(std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  if (!changed_.wait_for(lock, patience, [this] { return state_ != State::kStale; }))
    return "the grammar did not say within " + std::to_string(patience.count()) +
           " ms which tokens may come next";
  if (state_ == State::kFailed) return error_;
  return std::nullopt;
}

}  // namespace llama4rt
