// Reporter: turns the results of a step's rows into events, and ends sequences. Every event and every end of
// a sequence passes here.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "runtime/engine/request_state.h"
#include "runtime/runner/model_runner.h"
#include "runtime/sampling/host_sampler.h"
#include "runtime/sequences/scheduler.h"

namespace llama4rt {

class Reporter {
 public:
  Reporter(Scheduler& scheduler, const ModelConfig& config, int64_t max_model_len, int num_threads)
      : scheduler_(scheduler), config_(config), max_model_len_(max_model_len), sampler_(num_threads) {}

  // The rows whose logits this step must give: those of prompt tokens that the caller wants to see, and the
  // last row of every chunk that decides a token.
  std::vector<OutputRow> choose_outputs(std::span<const Chunk> chunks);
  // Uses rows of the step; those that are not sampled yet are read here, on the host. A chunk with guesses is
  // committed here, position by position, as far as its tokens come out.
  void use(const ModelRunner::Step& step, StepRows& rows);
  // All rows of a chunk have been used.
  void finish_chunk(const Chunk& chunk);

  // Chunks of a prompt before its last: that one is followed by a token.
  void report_progress(const Chunk& chunk);
  // Ends a sequence that has not ended.
  void finish(SequenceState& s, const std::string& reason, const std::string& error = "");

  bool has_events() const { return !events_.empty(); }
  std::vector<TokenEvent> take_events() { return std::exchange(events_, {}); }
  // Whether a sequence has ended since the last call.
  bool take_ended() { return std::exchange(ended_, false); }
  int64_t generated_tokens() const { return generated_tokens_; }  // since the start

 private:
  struct RowResult {
    bool finite = true;
    std::string error;            // why there is no token, beside logits that are not finite
    SampledToken sampled;         // of a row that decides a token
    TokenLogprobs of_next_token;  // of a prompt row
  };

  void read_on_host(const ModelRunner::Step& step, const StepRows& rows);
  void use_row(SequenceState& s, int64_t position, std::span<const float> row, RowResult& result);
  void use_guessed_row(const Chunk& chunk, int64_t position, RowResult& result);
  void fail_row(SequenceState& s, int64_t position, const RowResult& result);
  void accept(SequenceState& s, SampledToken& sampled, bool same_event = false);
  void report_rows(SequenceState& s);
  TokenEvent& report(SequenceState& s);
  void conclude(SequenceState& s, TokenEvent& event, const std::string& reason);

  Scheduler& scheduler_;
  const ModelConfig& config_;
  const int64_t max_model_len_;
  HostSampler sampler_;
  std::vector<RowResult> results_;
  const Chunk* missed_ = nullptr;  // of guesses, the latest with a wrong one: its further rows mean nothing
  std::vector<TokenEvent> events_;
  bool ended_ = false;
  int64_t generated_tokens_ = 0;
};

}  // namespace llama4rt
