#include "runtime/sequences/token_mask.h"

#include <utility>

namespace llama4rt {

void TokenMask::expire() {
  const std::lock_guard lock(mutex_);
  if (state_ == State::kReady) state_ = State::kStale;
  offer_.reset();
}

std::span<uint32_t> TokenMask::further_bits(size_t row) {
  if (further_bits_.empty()) further_bits_.resize(kMostRows * bits_.size());
  return std::span(further_bits_).subspan(row * bits_.size(), bits_.size());
}

void TokenMask::offer(Offer offer) {
  const std::lock_guard lock(mutex_);
  if (state_ != State::kReady) return;
  offer_ = std::move(offer);
  changed_.notify_all();
}

const TokenMask::Offer* TokenMask::wait_for_offer(std::chrono::milliseconds patience) {
  if (!will_offer_) return nullptr;
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, patience, [this] { return offer_.has_value() || state_ == State::kFailed; });
  return offer_ ? &*offer_ : nullptr;
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
