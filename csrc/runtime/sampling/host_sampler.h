// HostSampler: reads rows of logits on the host, side by side where that pays.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/tensor.h"
#include "base/thread_pool.h"
#include "runtime/sampling/sampler.h"

namespace llama4rt {

class HostSampler {
 public:
  explicit HostSampler(int num_threads) : pool_(num_threads), samplers_(size_t(pool_.num_threads())) {}

  // read(sampler, row index, row [V]) for every row of logits F32 [rows, V]. Rows are read by several
  // threads: `read` must touch nothing but what belongs to its row.
  using Read = std::function<void(Sampler&, int64_t, std::span<float>)>;
  void for_rows(const Tensor& logits, const Read& read);

 private:
  ThreadPool pool_;                // starts its threads when first needed
  std::vector<Sampler> samplers_;  // one per member of the pool
};

}  // namespace llama4rt
