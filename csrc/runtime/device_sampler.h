// DeviceSampler: what Sampler does, for many rows at once, by Backend::sample: the logits stay where they
// are, and only tokens and log probabilities come back. Same tokens as Sampler, bit for bit.
//
// A request goes to the device as its parameters, one random number, and the tokens whose logits change
// (bias, forbidden ends, penalties), each once: nothing of the size of the vocabulary but a mask, one bit per
// token.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ops/backend.h"
#include "runtime/sampler.h"

namespace llama4rt {

class DeviceSampler {
 public:
  DeviceSampler(Backend& backend, int64_t vocab_size);
  ~DeviceSampler();
  DeviceSampler(const DeviceSampler&) = delete;
  DeviceSampler& operator=(const DeviceSampler&) = delete;

  // Forgets the rows.
  void clear();
  // The next row. False: the device cannot do it (a token stands twice in logit_bias), nothing was added.
  bool add(const SampleRequest& request);
  // logits: F32 [rows added, V] in the backend's memory, overwritten.
  std::vector<SampledToken> run(Tensor logits);

 private:
  bool add_edits(const SampleRequest& request);
  SampleEdit& edit_of(int32_t id);
  void reserve(size_t bytes);

  Backend& backend_;
  const int64_t vocab_size_;
  std::vector<SampleRow> rows_;
  std::vector<SampleEdit> edits_;
  std::vector<uint32_t> masks_;      // [_, ceil(V / 32)]
  std::vector<int32_t> place_;       // [V] place of a token's edit within its row plus 1; zero between rows
  std::vector<char> staged_;         // rows, edits, masks as they lie on the device
  std::vector<SampledRow> sampled_;  // [S]
  std::vector<SampledTop> top_;      // [S, kMaxTopLogprobs]
  char* memory_ = nullptr;           // of the device
  size_t capacity_ = 0;              // bytes; grows when a batch needs more
};

}  // namespace llama4rt
