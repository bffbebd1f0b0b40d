// RequestState: a request inside the engine, and SequenceState: one of its n sequences, with what the caller
// still expects of it. Owned by the step loop; blocks and status belong to the scheduler.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "runtime/runner/image_encoder.h"
#include "runtime/runner/output_row.h"
#include "runtime/sequences/request.h"
#include "runtime/sequences/sequence.h"
#include "runtime/store/block_key.h"

namespace llama4rt {

struct RequestState;

struct SequenceState : Sequence {
  RequestState* request = nullptr;
  int index = 0;  // which of the n
  // The caller wants numbers of the rows of prompt positions [rows_done, rows_wanted) still.
  int64_t rows_wanted = 0;
  int64_t rows_done = 0;
  std::vector<TokenLogprobs> prompt_logprobs;
  LogitRows logits;       // of the step's chunk
  ScoredTokens scores;    // likewise
  bool reported = false;  // has had its first event
  // `tokens` and behind them the guesses of the step in flight: what a row after a guess is sampled with. The first
  // context_known of them are tokens.
  std::vector<int32_t> context;
  size_t context_known = 0;
  BlockChain chain;  // names of its leading blocks, as far as a store has asked

  bool is_finished() const { return status == SequenceStatus::kFinished; }
};

struct RequestState {
  uint64_t id = 0;
  Request request;
  uint64_t seed = 0;
  std::vector<int32_t> end_tokens;
  std::vector<uint32_t> allowed;  // allowed_token_ids as a mask, see SampleRequest
  std::vector<std::unique_ptr<SequenceState>> sequences;
  std::vector<ImageEncoder::Entry*> images;  // held until the request ends: preemption may need them again
  bool scheduled = false;                    // its sequences are with the scheduler
  int live = 0;                              // sequences that have not finished
};

inline SequenceState& sequence_of(const Chunk& chunk) { return static_cast<SequenceState&>(*chunk.sequence); }

// Whether the caller wants numbers of this row beyond those of a token chosen from it.
inline bool host_reads(const SequenceState& s, int64_t position) {
  return !s.request->request.generates() || position < s.rows_wanted;
}

inline SampleRequest sample_request(const SequenceState& s) {
  SampleRequest sample;
  sample.params = &s.request->request.sampling;
  sample.tokens = s.tokens;
  sample.num_prompt = s.num_prompt;
  sample.end_tokens = s.request->end_tokens;
  sample.allowed = s.request->allowed;
  sample.seed = s.request->seed;
  sample.index = uint32_t(s.index);
  return sample;
}

inline TokenMask* mask_of(const SequenceState& s) {
  const auto& masks = s.request->request.masks;
  return masks.empty() ? nullptr : masks[size_t(s.index)].get();
}

// The sequence's tokens with these guesses behind them, valid until the next call.
inline std::span<const int32_t> with_guesses(SequenceState& s, std::span<const int32_t> guesses) {
  s.context.resize(std::min(s.context_known, s.tokens.size()));
  s.context.insert(s.context.end(), s.tokens.begin() + std::ptrdiff_t(s.context.size()), s.tokens.end());
  s.context_known = s.context.size();
  s.context.insert(s.context.end(), guesses.begin(), guesses.end());
  return s.context;
}

inline OutputRow output_row(const SequenceState& s, size_t chunk, int64_t position) {
  return {.chunk = chunk,
          .position = position,
          .host_reads = host_reads(s, position),
          .sample = sample_request(s),
          .mask = mask_of(s)};
}

}  // namespace llama4rt
