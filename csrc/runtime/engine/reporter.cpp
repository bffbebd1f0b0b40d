#include "runtime/engine/reporter.h"

#include <algorithm>
#include <new>

#include "base/error.h"

namespace llama4rt {
namespace {

// Touches nothing but its row: rows are read side by side.
template <class Result>
void read_row(Sampler& sampler, std::span<float> row, const SequenceState& s, const OutputRow& output,
              Result& result) {
  const Request& request = s.request->request;
  if (request.return_logits) return;
  if (output.host_reads) {
    result.finite = sampler.logprobs(result.of_next_token, row, s.tokens[size_t(output.position + 1)],
                                     std::max<int64_t>(request.prompt_logprobs, 0));
    return;
  }
  SampleRequest sample = output.sample;
  if (output.mask) {
    if (auto error = output.mask->wait(kMaskPatience)) {
      result.error = std::move(*error);
      return;
    }
    sample.allowed = output.mask->bits();
  }
  result.sampled = sampler.sample(row, sample);
  result.finite = result.sampled.token >= 0;
  if (output.mask) output.mask->expire();
}

// The one large allocation that a request causes: where it fails, its step does, and not the engine.
void reserve(std::vector<float>& logits, int64_t count) {
  try {
    logits.reserve(size_t(count));
  } catch (const std::bad_alloc&) {
    throw Error(ErrorKind::kInternal,
                error_text("there is no memory for the ", count * int64_t(sizeof(float)),
                           " bytes of a step's logits"));
  }
}

}  // namespace

std::vector<OutputRow> Reporter::choose_outputs(std::span<const Chunk> chunks) {
  std::vector<OutputRow> outputs;
  for (size_t i = 0; i < chunks.size(); ++i) {
    const Chunk& chunk = chunks[i];
    SequenceState& s = sequence_of(chunk);
    const Request& request = s.request->request;
    const int64_t wanted_end = std::min(chunk.end(), s.rows_wanted);
    const int64_t wanted_begin = std::max(chunk.begin, s.rows_done);
    for (int64_t p = wanted_begin; p < wanted_end; ++p) outputs.push_back(output_row(s, i, p));
    if (request.return_logits) {
      const int64_t rows = std::max<int64_t>(wanted_end - wanted_begin, 0);
      s.logits = {0, config_.vocab_size, {}};
      reserve(s.logits.values, rows * config_.vocab_size);
    } else if (request.score_from > 0) {
      s.scores = {};
      s.scores.first = wanted_begin + 1;
      s.scores.num_top = std::clamp<int64_t>(request.prompt_logprobs, 0, config_.vocab_size);
    } else if (!chunk.guesses.empty()) {
      const std::span<const int32_t> context = with_guesses(s, chunk.guesses);
      for (int64_t p = chunk.known_end() - 1; p < chunk.end(); ++p) {
        OutputRow& row = outputs.emplace_back(output_row(s, i, p));
        row.sample.tokens = context.first(size_t(p + 1));
        if (row.mask && p >= chunk.known_end()) {  // which of the grammar's offer, and there already
          row.sample.allowed = row.mask->further_bits(size_t(p - chunk.known_end()));
          row.mask = nullptr;
        }
      }
    } else if (chunk.samples()) {
      outputs.push_back(output_row(s, i, chunk.end() - 1));
    }
  }
  return outputs;
}

void Reporter::use(const ModelRunner::Step& step, StepRows& rows) {
  results_.assign(size_t(rows.count), {});
  if (rows.first == 0) missed_ = nullptr;
  if (rows.tokens.empty()) read_on_host(step, rows);
  for (size_t r = 0; r < rows.tokens.size(); ++r) {
    results_[r].error = std::move(rows.tokens[r].error);
    results_[r].sampled = std::move(rows.tokens[r].sampled);
    results_[r].finite = results_[r].sampled.token >= 0;
  }
  for (int64_t r = 0; r < rows.count; ++r) {
    const OutputRow& output = step.outputs[size_t(rows.first + r)];
    std::span<const float> row;
    if (rows.tokens.empty()) row = {rows.logits.row<float>(r), size_t(rows.logits.size(1))};
    const Chunk& chunk = step.chunks[output.chunk];
    if (chunk.guesses.empty())
      use_row(sequence_of(chunk), output.position, row, results_[size_t(r)]);
    else
      use_guessed_row(chunk, output.position, results_[size_t(r)]);
  }
}

void Reporter::read_on_host(const ModelRunner::Step& step, const StepRows& rows) {
  sampler_.for_rows(rows.logits, [&](Sampler& sampler, int64_t r, std::span<float> row) {
    const OutputRow& output = step.outputs[size_t(rows.first + r)];
    read_row(sampler, row, sequence_of(step.chunks[output.chunk]), output, results_[size_t(r)]);
  });
}

void Reporter::use_row(SequenceState& s, int64_t position, std::span<const float> row, RowResult& result) {
  if (s.is_finished()) return;  // an earlier row of the same chunk was not finite, or the caller ended it
  if (!result.error.empty() || !result.finite) return fail_row(s, position, result);
  if (s.request->request.return_logits) {
    s.logits.values.insert(s.logits.values.end(), row.begin(), row.end());
    ++s.logits.rows;
  } else if (s.request->request.score_from > 0) {
    s.scores.logprobs.push_back(result.of_next_token.logprob);
    s.scores.top.insert(s.scores.top.end(), result.of_next_token.top.begin(), result.of_next_token.top.end());
  } else if (position < s.rows_wanted) {
    s.prompt_logprobs.push_back(std::move(result.of_next_token));
  } else {
    accept(s, result.sampled);
  }
}

// Does what one step after the other would do: the position is final, then its row decides the next token. The first
// token that is not the guess ends it, and what was computed behind it is given back.
void Reporter::use_guessed_row(const Chunk& chunk, int64_t position, RowResult& result) {
  SequenceState& s = sequence_of(chunk);
  if (s.is_finished() || missed_ == &chunk) return;
  const auto row = size_t(position + 1 - chunk.known_end());
  const bool right = row < chunk.guesses.size() && result.error.empty() && result.finite &&
                     result.sampled.token == chunk.guesses[row];
  missed_ = right ? nullptr : &chunk;
  scheduler_.commit({&s, position, right ? 1 : int(chunk.end() - position)}, 1);
  if (!result.error.empty() || !result.finite) return fail_row(s, position, result);
  accept(s, result.sampled, row > 0);
  events_.back().guessed = int(chunk.guesses.size());
  events_.back().guessed_right = int(row) + (right ? 1 : 0);
}

void Reporter::fail_row(SequenceState& s, int64_t position, const RowResult& result) {
  if (!result.error.empty()) return finish(s, "error", result.error);
  TokenEvent& event = report(s);
  event.error = error_text("the logits of position ", position, " hold NaN or infinity");
  event.not_finite = true;
  conclude(s, event, "error");
}

void Reporter::finish_chunk(const Chunk& chunk) {
  SequenceState& s = sequence_of(chunk);
  if (s.is_finished() || s.rows_wanted == 0) return;
  s.rows_done = std::max(s.rows_done, std::min(chunk.end(), s.rows_wanted));
  s.max_cached_tokens = s.rows_done < s.rows_wanted ? s.rows_done : INT64_MAX;
  if (!s.request->request.generates()) report_rows(s);
}

// same_event: the latest event is of an earlier token of the same chunk, and says this one, too.
void Reporter::accept(SequenceState& s, SampledToken& sampled, bool same_event) {
  const std::vector<int32_t>& ends = s.request->end_tokens;
  TokenEvent& event = same_event ? events_.back() : report(s);
  if (std::find(ends.begin(), ends.end(), sampled.token) != ends.end()) {
    event.stop_token_id = sampled.token;
    return conclude(s, event, "stop");
  }
  s.append(sampled.token);
  ++generated_tokens_;
  event.tokens.push_back({sampled.token, std::move(sampled.logprobs)});
  if (s.num_output() == s.request->request.max_tokens || s.length() == max_model_len_)
    conclude(s, event, "length");
}

void Reporter::report_progress(const Chunk& chunk) {
  const SequenceState& s = sequence_of(chunk);
  if (!s.request->request.report_progress || s.index != 0 || chunk.end() >= s.num_prompt) return;
  TokenEvent& event = events_.emplace_back();
  event.request_id = s.request->id;
  event.prompt_computed = chunk.end();
  event.cached_tokens = std::max<int64_t>(s.cached_tokens, 0);
}

// What the caller wants of one chunk's rows: that of a long prompt is never in memory together here.
void Reporter::report_rows(SequenceState& s) {
  const bool scores = s.request->request.score_from > 0;
  if (scores && s.scores.logprobs.empty()) return;  // the chunk lies before the first wanted token
  TokenEvent& event = report(s);
  if (scores)
    event.scores = std::exchange(s.scores, {});
  else
    event.logits = std::exchange(s.logits, {});
  if (s.rows_done == s.rows_wanted) conclude(s, event, "length");
}

void Reporter::finish(SequenceState& s, const std::string& reason, const std::string& error) {
  if (s.is_finished()) return;
  TokenEvent& event = report(s);
  event.error = error;
  conclude(s, event, reason);
}

void Reporter::conclude(SequenceState& s, TokenEvent& event, const std::string& reason) {
  event.finish_reason = reason;
  scheduler_.release(s);
  --s.request->live;
  ended_ = true;
}

TokenEvent& Reporter::report(SequenceState& s) {
  TokenEvent& event = events_.emplace_back();
  const Request& request = s.request->request;
  event.request_id = s.request->id;
  event.index = s.index;
  if (s.reported) return event;
  s.reported = true;
  event.cached_tokens = std::max<int64_t>(s.cached_tokens, 0);
  const bool asked = request.prompt_logprobs >= 0 && request.generates() && s.index == 0;
  if (asked && int64_t(s.prompt_logprobs.size()) == s.rows_wanted)
    event.prompt_logprobs = std::move(s.prompt_logprobs);
  return event;
}

}  // namespace llama4rt
