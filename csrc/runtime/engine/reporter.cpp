#include "runtime/engine/reporter.h"

#include <algorithm>
#include <new>

#include "base/error.h"

namespace llama4rt {
namespace {

// Touches nothing but its row: rows are read side by side.
template <class Result>
void read_row(Sampler& sampler, std::span<float> row, const Generation& g, const OutputRow& output,
              Result& result) {
  const Request& request = g.request->request;
  if (request.return_logits) return;
  if (output.host_reads) {
    result.finite = sampler.logprobs(result.of_next_token, row, g.tokens[size_t(output.position + 1)],
                                     request.prompt_logprobs);
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
    Generation& g = generation_of(chunk);
    const int64_t wanted_end = std::min(chunk.end(), g.rows_wanted);
    const int64_t wanted_begin = std::max(chunk.begin, g.rows_done);
    for (int64_t p = wanted_begin; p < wanted_end; ++p) outputs.push_back(output_row(g, i, p));
    if (g.request->request.return_logits) {
      const int64_t rows = std::max<int64_t>(wanted_end - wanted_begin, 0);
      g.logits = {0, config_.vocab_size, {}};
      reserve(g.logits.values, rows * config_.vocab_size);
    } else if (chunk.samples()) {
      outputs.push_back(output_row(g, i, chunk.end() - 1));
    }
  }
  return outputs;
}

void Reporter::use(const ModelRunner::Step& step, StepRows& rows) {
  results_.assign(size_t(rows.count), {});
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
    use_row(generation_of(step.chunks[output.chunk]), output.position, row, results_[size_t(r)]);
  }
}

void Reporter::read_on_host(const ModelRunner::Step& step, const StepRows& rows) {
  sampler_.for_rows(rows.logits, [&](Sampler& sampler, int64_t r, std::span<float> row) {
    const OutputRow& output = step.outputs[size_t(rows.first + r)];
    read_row(sampler, row, generation_of(step.chunks[output.chunk]), output, results_[size_t(r)]);
  });
}

void Reporter::use_row(Generation& g, int64_t position, std::span<const float> row, RowResult& result) {
  if (g.is_finished()) return;  // an earlier row of the same chunk was not finite, or the caller ended it
  if (!result.error.empty()) return finish(g, "error", result.error);
  if (!result.finite) {
    TokenEvent& event = report(g);
    event.error = error_text("the logits of position ", position, " hold NaN or infinity");
    event.not_finite = true;
    return conclude(g, event, "error");
  }
  if (g.request->request.return_logits) {
    g.logits.values.insert(g.logits.values.end(), row.begin(), row.end());
    ++g.logits.rows;
  } else if (position < g.rows_wanted) {
    g.prompt_logprobs.push_back(std::move(result.of_next_token));
  } else {
    accept(g, result.sampled);
  }
}

void Reporter::finish_chunk(const Chunk& chunk) {
  Generation& g = generation_of(chunk);
  if (g.is_finished() || g.rows_wanted == 0) return;
  g.rows_done = std::max(g.rows_done, std::min(chunk.end(), g.rows_wanted));
  g.max_cached_tokens = g.rows_done < g.rows_wanted ? g.rows_done : INT64_MAX;
  if (g.request->request.return_logits) report_logits(g);
}

void Reporter::accept(Generation& g, SampledToken& sampled) {
  const std::vector<int32_t>& ends = g.request->end_tokens;
  TokenEvent& event = report(g);
  if (std::find(ends.begin(), ends.end(), sampled.token) != ends.end()) {
    event.stop_token_id = sampled.token;
    return conclude(g, event, "stop");
  }
  g.append(sampled.token);
  ++generated_tokens_;
  event.tokens.push_back({sampled.token, std::move(sampled.logprobs)});
  if (g.num_output() == g.request->request.max_tokens || g.length() == max_model_len_)
    conclude(g, event, "length");
}

void Reporter::report_progress(const Chunk& chunk) {
  const Generation& g = generation_of(chunk);
  if (!g.request->request.report_progress || g.index != 0 || chunk.end() >= g.num_prompt) return;
  TokenEvent& event = events_.emplace_back();
  event.request_id = g.request->id;
  event.prompt_computed = chunk.end();
  event.cached_tokens = std::max<int64_t>(g.cached_tokens, 0);
}

// The logits of one chunk at a time: those of a long prompt are never in memory together here.
void Reporter::report_logits(Generation& g) {
  TokenEvent& event = report(g);
  event.logits = std::exchange(g.logits, {});
  if (g.rows_done == g.rows_wanted) conclude(g, event, "length");
}

void Reporter::finish(Generation& g, const std::string& reason, const std::string& error) {
  if (g.is_finished()) return;
  TokenEvent& event = report(g);
  event.error = error;
  conclude(g, event, reason);
}

void Reporter::conclude(Generation& g, TokenEvent& event, const std::string& reason) {
  event.finish_reason = reason;
  scheduler_.release(g);
  --g.request->live;
  ended_ = true;
}

TokenEvent& Reporter::report(Generation& g) {
  TokenEvent& event = events_.emplace_back();
  const Request& request = g.request->request;
  event.request_id = g.request->id;
  event.index = g.index;
  if (g.reported) return event;
  g.reported = true;
  event.cached_tokens = std::max<int64_t>(g.cached_tokens, 0);
  const bool asked = request.prompt_logprobs >= 0 && !request.return_logits && g.index == 0;
  if (asked && int64_t(g.prompt_logprobs.size()) == g.rows_wanted)
    event.prompt_logprobs = std::move(g.prompt_logprobs);
  return event;
}

}  // namespace llama4rt
