#include "runtime/engine/draft_engine.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "base/checked_math.h"
#include "base/error.h"
#include "runtime/engine/request_state.h"

namespace llama4rt {
namespace {

// Guessing goes on while all guesses so far are at least this likely to be right.
constexpr double kLeastChance = 0.3;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

DraftEngine::DraftEngine(std::unique_ptr<EngineFile> file, const MemoryPlan& plan, Device& device,
                         const ModelConfig& target)
    : file_(std::move(file)),
      plan_(plan),
      runner_(*file_, device,
              {.kv = plan.kv,
               .step = plan.step,
               .workspace = plan.workspace + plan.logits,
               .vision_workspace = plan.vision,
               .images = plan.images}),
      global_(plan.kv.num_global_blocks),
      local_(plan.kv.num_local_blocks) {
  LLAMA4RT_CHECK(kConfig, file_->config().vocab_size == target.vocab_size, "speculate: ", file_->path(),
                 " has a vocabulary of ", file_->config().vocab_size, " tokens and the model one of ",
                 target.vocab_size, "; a draft model must have the model's own");
}

int64_t DraftEngine::chunk_begin(int64_t position) const {
  return plan_.kv.attention_chunk == 0 ? 0 : position - position % plan_.kv.attention_chunk;
}

void DraftEngine::propose(std::span<Draft> drafts) {
  const double began = now();
  std::vector<Active> active;
  ++turn_;
  for (Draft& draft : drafts) {
    if (draft.most <= 0 || draft.sequence->images) continue;
    if (draft.sequence->length() >= plan_.kv.max_model_len) continue;
    active.push_back({.draft = &draft, .mirror = &follow(*draft.sequence)});
  }
  while (step(active)) {
  }
  seconds_taken_ = now() - began;
}

void DraftEngine::forget(const Sequence& sequence) {
  const auto it = mirrors_.find(sequence.arrival);
  if (it == mirrors_.end()) return;
  free_blocks(it->second.sequence, 0);
  mirrors_.erase(it);
}

// The mirror of a sequence, with its tokens and without guesses that were wrong.
DraftEngine::Mirror& DraftEngine::follow(const Sequence& sequence) {
  const auto [it, is_new] = mirrors_.try_emplace(sequence.arrival);
  Mirror& mirror = it->second;
  if (is_new) {
    mirror.sequence.num_prompt = sequence.num_prompt;
    mirror.params = static_cast<const SequenceState&>(sequence).request->request.sampling;
    mirror.params.logprobs = 0;  // says how likely a guess is
  }
  mirror.turn = turn_;
  std::vector<int32_t>& mine = mirror.sequence.tokens;
  size_t equal = mirror.known;
  while (equal < mine.size() && equal < sequence.tokens.size() && mine[equal] == sequence.tokens[equal])
    ++equal;
  mine.resize(equal);
  mine.insert(mine.end(), sequence.tokens.begin() + std::ptrdiff_t(equal), sequence.tokens.end());
  mirror.known = mine.size();
  rewind(mirror.sequence, std::min(int64_t(equal), mirror.sequence.length() - 1));
  return mirror;
}

// Forgets what lies behind the first `tokens`. Local layers keep one attention chunk: one that was left is computed
// again from its beginning.
void DraftEngine::rewind(Sequence& s, int64_t tokens) {
  if (s.num_computed <= tokens) return;
  const bool left_chunk = chunk_begin(tokens) != chunk_begin(s.num_computed);
  if (left_chunk)
    for (; !s.local_blocks.empty(); s.local_blocks.pop_back()) local_.release(s.local_blocks.back());
  s.num_computed = left_chunk ? chunk_begin(tokens) : tokens;
  free_blocks(s, s.num_computed);
}

// Gives back the blocks behind the first `tokens`, which do not lie before the attention chunk of num_computed.
void DraftEngine::free_blocks(Sequence& s, int64_t tokens) {
  const int64_t size = plan_.kv.block_size;
  const int64_t local = tokens - std::min(tokens, chunk_begin(s.num_computed));
  for (; int64_t(s.global_blocks.size()) > ceil_div(tokens, size); s.global_blocks.pop_back())
    global_.release(s.global_blocks.back());
  for (; int64_t(s.local_blocks.size()) > ceil_div(local, size); s.local_blocks.pop_back())
    local_.release(s.local_blocks.back());
  if (tokens == 0) s.num_computed = 0;
}

bool DraftEngine::free_longest_unasked() {
  Mirror* oldest = nullptr;
  for (auto& [arrival, mirror] : mirrors_)
    if (mirror.sequence.num_computed > 0 && mirror.turn != turn_ && (!oldest || mirror.turn < oldest->turn))
      oldest = &mirror;
  if (oldest) free_blocks(oldest->sequence, 0);
  return oldest != nullptr;
}

bool DraftEngine::take_blocks(Mirror& mirror, int64_t end) {
  Sequence& s = mirror.sequence;
  const int64_t size = plan_.kv.block_size;
  const auto take = [&](BlockAllocator& group, std::vector<int32_t>& blocks, int64_t tokens) {
    while (group.num_blocks() > 0 && int64_t(blocks.size()) * size < tokens) {
      const int32_t block = group.allocate();
      if (block != BlockAllocator::kNoBlock)
        blocks.push_back(block);
      else if (!free_longest_unasked())
        return false;
    }
    return true;
  };
  return take(global_, s.global_blocks, end) &&
         take(local_, s.local_blocks, end - chunk_begin(s.num_computed));
}

// One forward pass for all that want more; false when nobody does.
bool DraftEngine::step(std::vector<Active>& active) {
  const double began = now();
  std::vector<Chunk> chunks;
  std::vector<OutputRow> outputs;
  std::vector<Active*> of_chunk;
  int64_t budget = plan_.max_batched_tokens;
  bool decodes = true;
  for (Active& a : active) {
    Sequence& s = a.mirror->sequence;
    if (a.done || budget == 0) continue;
    int64_t count = std::min(s.num_remaining(), budget);
    if (plan_.kv.attention_chunk > 0)
      count = std::min(count, chunk_begin(s.num_computed) + plan_.kv.attention_chunk - s.num_computed);
    if (!take_blocks(*a.mirror, s.num_computed + count)) {
      a.done = true;
      continue;
    }
    decodes = decodes && count == 1;
    chunks.push_back({&s, s.num_computed, int(count)});
    of_chunk.push_back(&a);
    budget -= count;
    if (!chunks.back().samples()) continue;
    OutputRow row;
    row.chunk = chunks.size() - 1;
    row.position = s.length() - 1;
    row.sample = sample_request(static_cast<const SequenceState&>(*a.draft->sequence));
    row.sample.params = &a.mirror->params;
    row.sample.tokens = s.tokens;
    outputs.push_back(row);
  }
  if (chunks.empty()) return false;
  ModelRunner::Step pass = runner_.submit(chunks, outputs);
  while (!pass.is_done()) {
    const StepRows rows = runner_.collect(pass);
    for (int64_t r = 0; r < rows.count; ++r) {
      const OutputRow& output = outputs[size_t(rows.first + r)];
      std::span<float> row(rows.logits.row<float>(r), size_t(rows.logits.size(1)));
      take_guess(*of_chunk[output.chunk], sampler_.sample(row, output.sample));
    }
  }
  for (const Chunk& chunk : chunks) {
    Sequence& s = *chunk.sequence;
    s.num_computed = chunk.end();
    if (plan_.kv.attention_chunk > 0 && s.num_computed % plan_.kv.attention_chunk == 0)
      for (; !s.local_blocks.empty(); s.local_blocks.pop_back()) local_.release(s.local_blocks.back());
  }
  if (decodes) {
    const double seconds = now() - began;
    seconds_per_guess_ += (seconds_per_guess_ == 0 ? 1 : 0.1) * (seconds - seconds_per_guess_);
  }
  return true;
}

void DraftEngine::take_guess(Active& active, SampledToken sampled) {
  active.done = true;
  if (sampled.token < 0) return;
  Sequence& s = active.mirror->sequence;
  const double likely = std::exp(double(sampled.logprobs.logprob));
  s.tokens.push_back(sampled.token);
  active.draft->tokens.push_back(sampled.token);
  active.draft->evidence.push_back(
      uint8_t(std::clamp(int(likely * kEvidenceClasses), 0, kEvidenceClasses - 1)));
  active.chance *= likely;
  active.done = int(active.draft->tokens.size()) == active.draft->most || active.chance < kLeastChance ||
                s.length() >= plan_.kv.max_model_len;
}

}  // namespace llama4rt
