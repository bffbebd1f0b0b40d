#include "runtime/runner/model_runner.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace llama4rt {

ModelRunner::ModelRunner(const WeightSource& source, Device& device, const RunnerMemory& memory)
    : config_(source.config()),
      device_(device),
      weights_(Llama4Weights::load(source)),
      logit_rows_(memory.step.logit_rows),
      kv_(device, config_, memory.kv),
      model_(device, config_, weights_, memory.step, size_t(memory.workspace)),
      builder_(device, config_, memory.kv, memory.step) {
  if (config_.vision)
    encoder_ = std::make_unique<ImageEncoder>(source, device, memory.images, memory.step.image_tiles,
                                              memory.vision_workspace);
  if (device.traits().samples)
    sampler_ = std::make_unique<DeviceSampler>(device, config_.vocab_size, logit_rows_);
  if (memory.zero_cache) kv_.zero();
}

int64_t ModelRunner::workspace_bytes() const {
  return int64_t(model_.workspace().capacity()) + (encoder_ ? encoder_->workspace_bytes() : 0);
}

ModelRunner::Step ModelRunner::submit(std::vector<Chunk> chunks, std::vector<OutputRow> outputs,
                                      bool follows) {
  Step step{.chunks = std::move(chunks), .outputs = std::move(outputs), .sampling = {}};
  const Batch& batch = builder_.build(step.chunks, step.outputs, follows);
  if (const auto key = builder_.capture_key()) {
    device_.run_captured(*key, [&] {
      model_.forward(batch, kv_.layers());
      model_.logits(0, batch.num_outputs);
    });
    step.has_logits = true;
  } else {
    model_.forward(batch, kv_.layers());
  }
  sample_async(step, follows);
  LLAMA4RT_CHECK(kInternal, !follows || step.sampling, "a step ahead has a row for the host");
  return step;
}

// Submits the sampling of all rows at once; nothing is done when the host has a say in one of them.
void ModelRunner::sample_async(Step& step, bool follows) {
  const auto rows = int64_t(step.outputs.size());
  if (!sampler_ || !device_.traits().runs_async || rows == 0 || rows > logit_rows_) return;
  if (std::any_of(step.outputs.begin(), step.outputs.end(), [](const OutputRow& row) {
        return row.host_reads || row.mask || !DeviceSampler::takes(row.sample);
      }))
    return;
  const Tensor logits = step.has_logits ? model_.latest_logits(rows) : model_.logits(0, rows);
  step.has_logits = true;
  sampler_->clear();
  for (const OutputRow& row : step.outputs) {
    SampleRequest sample = row.sample;
    sample.num_unknown = follows ? 1 : 0;
    if (!sampler_->add(sample)) return;
  }
  const bool one_each = step.outputs.size() == step.chunks.size();
  step.sampling = sampler_->submit(logits, one_each ? builder_.next_ids() : nullptr);
}

StepRows ModelRunner::collect(Step& step) {
  LLAMA4RT_ASSERT(!step.is_done());
  const auto rows = int64_t(step.outputs.size());
  StepRows out;
  out.first = step.collected;
  if (step.sampling) {
    out.count = rows;
    for (SampledToken& sampled : sampler_->collect(*step.sampling))
      out.tokens.push_back({std::move(sampled), {}});
  } else {
    out.count = step.has_logits ? rows : std::min(logit_rows_, rows - out.first);
    const Tensor logits = step.has_logits ? model_.latest_logits(rows) : model_.logits(out.first, out.count);
    if (!sample_rows(step, logits, out)) out.logits = on_host(logits);
  }
  step.collected += out.count;
  return out;
}

// Samples the rows on the device, as many at once as the sampler takes. False: a row is for the host to read.
bool ModelRunner::sample_rows(const Step& step, const Tensor& logits, StepRows& rows) {
  if (!sampler_) return false;
  const std::span<const OutputRow> outputs =
      std::span(step.outputs).subspan(size_t(rows.first), size_t(rows.count));
  for (const OutputRow& row : outputs)
    if (row.host_reads || !DeviceSampler::takes(row.sample)) return false;
  sampler_->clear();
  rows.tokens.resize(size_t(rows.count));
  int64_t first = 0;
  const auto sample_added = [&] {
    const int64_t added = sampler_->num_rows();
    std::vector<SampledToken> tokens = sampler_->collect(sampler_->submit(logits.rows(first, added)));
    for (int64_t r = 0; r < added; ++r) rows.tokens[size_t(first + r)].sampled = std::move(tokens[size_t(r)]);
    sampler_->clear();
    first += added;
  };
  for (size_t r = 0; r < outputs.size(); ++r) {
    SampleRequest sample = outputs[r].sample;
    if (TokenMask* const mask = outputs[r].mask) {
      if (auto error = mask->wait(kMaskPatience))
        rows.tokens[r].error = std::move(*error);
      else
        sample.allowed = mask->bits();
    }
    if (sampler_->add(sample)) continue;
    sample_added();
    LLAMA4RT_CHECK(kInternal, sampler_->add(sample), "a row does not fit the sampler");
  }
  sample_added();
  for (size_t r = 0; r < outputs.size(); ++r)
    if (outputs[r].mask && rows.tokens[r].error.empty()) outputs[r].mask->expire();
  return true;
}

// The rows where the host can read and change them.
Tensor ModelRunner::on_host(const Tensor& logits) {
  if (!device_.traits().has_own_memory) return logits;
  host_logits_.resize(size_t(logits.numel()));
  device_.copy_to_host(host_logits_.data(), logits.data, host_logits_.size() * sizeof(float));
  return Tensor(host_logits_.data(), DType::kF32, {logits.size(0), logits.size(1)});
}

void ModelRunner::discard(const Step& step) {
  if (step.sampling) device_.wait_for(step.sampling->mark);
}

}  // namespace llama4rt
