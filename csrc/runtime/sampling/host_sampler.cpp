#include "runtime/sampling/host_sampler.h"

namespace llama4rt {
namespace {

// Below so many logits, waking threads costs more than it saves.
constexpr int64_t kParallelLogits = int64_t(1) << 17;

}  // namespace

void HostSampler::for_rows(const Tensor& logits, const Read& read) {
  const int64_t count = logits.size(0);
  const auto row = [&](int64_t r) { return std::span(logits.row<float>(r), size_t(logits.size(1))); };
  if (count > 1 && logits.numel() >= kParallelLogits) {
    pool_.run([&](int member, int members) {
      for (int64_t r = member; r < count; r += members) read(samplers_[size_t(member)], r, row(r));
    });
    return;
  }
  for (int64_t r = 0; r < count; ++r) read(samplers_[0], r, row(r));
}

}  // namespace llama4rt
