// DeviceSampler: what Sampler does, for many rows at once, by Ops::sample: the logits stay where they
// are, and only tokens and log probabilities come back. Same tokens as Sampler, bit for bit.
//
// A request goes to the device as its parameters, one random number, and the tokens whose logits change
// (bias, forbidden ends, penalties), each once: nothing of the size of the vocabulary but a mask, one bit per
// token. All memory is taken at the start: any row fits, and max_rows of them as long as they do not change
// more tokens than there are. Rows beyond that take a further run.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/tensor.h"
#include "ops/device.h"
#include "ops/sampling.h"
#include "runtime/sampling/sampler.h"

namespace llama4rt {

class DeviceSampler {
 public:
  // What was submitted, until it is collected.
  struct Run {
    uint64_t mark = 0;                  // of the device; reached when the results are there
    int side = 0;                       // of the staging memory
    std::vector<int32_t> num_logprobs;  // [rows] -1: none
  };

  DeviceSampler(Device& device, int64_t vocab_size, int64_t max_rows);
  ~DeviceSampler();
  DeviceSampler(const DeviceSampler&) = delete;
  DeviceSampler& operator=(const DeviceSampler&) = delete;

  // Of the device's memory.
  static int64_t device_bytes(int64_t vocab_size, int64_t max_rows);

  // Forgets the rows.
  void clear();
  // The next row, of a checked request. False: it does not fit beside the others, nothing was added.
  bool add(const SampleRequest& request);
  // False: the row is for the host's sampler, which knows typical_p.
  static bool takes(const SampleRequest& request);
  int64_t num_rows() const { return int64_t(rows_.size()); }
  // Samples the rows added, without waiting. logits: F32 [rows added, V] in the device's memory,
  // overwritten. next_ids: I32 [rows added] there, or null: where the tokens go as well, -1 for a row that
  // holds NaN or infinity. A run must be collected before the next but one is submitted.
  Run submit(Tensor logits, int32_t* next_ids = nullptr);
  // Waits for the run and reads its results.
  std::vector<SampledToken> collect(const Run& run);

 private:
  // Where each array begins, in bytes, on the device and in each side of the staging memory.
  struct Places {
    Places(int64_t vocab_size, int64_t max_rows);
    size_t rows = 0, masks = 0, edits = 0, sampled = 0, top = 0, end = 0;
  };

  void add_edits(const SampleRequest& request);
  SampleEdit& edit_of(int32_t id);

  Device& device_;
  const int64_t vocab_size_, max_rows_;
  const Places places_;
  std::vector<SampleRow> rows_;
  std::vector<SampleEdit> edits_;
  std::vector<uint32_t> masks_;  // [_, ceil(V / 32)]
  std::vector<int32_t> place_;   // [V] place of a token's edit within its row plus 1; zero between rows
  char* memory_ = nullptr;       // of the device
  char* staging_[2] = {};
  int side_ = 0;  // of the next run
};

}  // namespace llama4rt
