#include "runtime/speculation/step_cost.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace llama4rt {
namespace {

// Before anything was measured: a step at 10 GB/s, in which a guess costs a quarter of what is read.
constexpr double kFirstByteSeconds = 1e-10;
constexpr double kFirstGuessShare = 0.25;
constexpr double kForgiving = 0.005;  // in each step without guesses

}  // namespace

// The first steps of a process are slow in many ways, so they fade soon; one that somebody else on the machine slowed
// down counts as twice as slow at most.
void StepCost::Learnt::take(double seen) {
  if (times > 3 && value > 0) seen = std::clamp(seen, value / 2, value * 2);
  const double weight = std::max(1.0 / (times + 1), 0.08);
  value += weight * (seen - value);
  ++times;
}

int StepCost::size_class(int n) {
  return std::min(int(std::bit_width(unsigned(std::max(n, 1)))), kSizes) - 1;
}

double StepCost::bytes(const StepRowsOf& step) const {
  // Rows choose at random and independently: a bound that text, whose neighbours choose alike, stays below.
  const double unread = std::pow(1 - 1 / work_.num_experts, step.rows * work_.experts_per_token);
  const double experts = work_.num_experts > 1 ? work_.expert_bytes * (1 - unread) : 0;
  const double mean = step.sequences > 0 ? step.context / step.sequences : 0;
  const double local = std::min(mean, work_.local_context) * step.sequences;
  return work_.shared_bytes + experts +
         work_.kv_bytes * (work_.local_share * local + (1 - work_.local_share) * step.context);
}

double StepCost::guess_macs(const StepRowsOf& step) const {
  const double mean = step.sequences > 0 ? step.context / step.sequences : 0;
  const double seen =
      work_.local_share * std::min(mean, work_.local_context) + (1 - work_.local_share) * mean;
  return (step.rows - step.sequences) * (work_.row_macs + work_.kv_macs * seen);
}

double StepCost::byte_seconds(int sequences) const {
  const int wanted = size_class(sequences);
  for (int distance = 0; distance < kSizes; ++distance)
    for (const int c : {wanted - distance, wanted + distance})
      if (c >= 0 && c < kSizes && byte_[size_t(c)].times > 0) return byte_[size_t(c)].value;
  return kFirstByteSeconds;
}

double StepCost::mac_seconds(int guesses) const {
  const int wanted = size_class(guesses);
  for (int distance = 0; distance < kSizes; ++distance)
    for (const int c : {wanted - distance, wanted + distance})
      if (c >= 0 && c < kSizes && mac_[size_t(c)].times > 0) return mac_[size_t(c)].value;
  return first_mac_seconds();
}

double StepCost::first_mac_seconds() const {
  return kFirstGuessShare * byte_seconds(1) * work_.shared_bytes / std::max(work_.row_macs, 1.0);
}

bool StepCost::knows_plain_steps() const {
  return std::any_of(byte_.begin(), byte_.end(), [](const Learnt& learnt) { return learnt.times > 1; });
}

double StepCost::seconds(const StepRowsOf& step) const {
  const int guesses = step.rows - step.sequences;
  double s = byte_seconds(step.sequences) * bytes(step);
  if (guesses > 0) s += mac_seconds(guesses) * guess_macs(step);
  return s;
}

void StepCost::observe(const StepRowsOf& step, double seconds) {
  const int guesses = step.rows - step.sequences;
  if (guesses == 0) {
    byte_[size_t(size_class(step.sequences))].take(seconds / bytes(step));
    // A cost that once seemed so high that nobody guessed again must not stay for ever.
    for (Learnt& mac : mac_)
      if (mac.value > first_mac_seconds()) mac.value += kForgiving * (first_mac_seconds() - mac.value);
    return;
  }
  if (!knows_plain_steps()) return;
  const double macs = guess_macs(step);
  const double beyond = seconds - byte_seconds(step.sequences) * bytes(step);
  if (macs > 0) mac_[size_t(size_class(guesses))].take(std::max(beyond, 0.0) / macs);
}

}  // namespace llama4rt
