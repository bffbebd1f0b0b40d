#include "runtime/sequences/scheduler.h"

#include <algorithm>

#include "base/checked_math.h"
#include "base/error.h"

namespace llama4rt {

Scheduler::Scheduler(const SchedulerOptions& options)
    : options_(options),
      global_(options.num_global_blocks),
      local_(options.num_local_blocks),
      cache_(global_, local_, options.block_size, options.attention_chunk, options.prefix_hash_bits) {
  LLAMA4RT_CHECK(kConfig, options.max_num_seqs >= 1, "max_num_seqs is ", options.max_num_seqs,
                 "; it must be at least 1");
  LLAMA4RT_CHECK(kConfig, options.max_batched_tokens >= options.max_num_seqs, "max_batched_tokens is ",
                 options.max_batched_tokens, "; it must be at least max_num_seqs (", options.max_num_seqs,
                 "), so that every running sequence can advance in each step");
  LLAMA4RT_CHECK(kConfig, options.attention_chunk % options.block_size == 0, "block_size ",
                 options.block_size, " does not divide the attention chunk of ", options.attention_chunk,
                 " tokens");
}

void Scheduler::add(Sequence& s) {
  LLAMA4RT_ASSERT(s.status == SequenceStatus::kNew && s.length() > 0);
  s.status = SequenceStatus::kWaiting;
  if (!uses_cache(s)) s.leader = nullptr;
  waiting_.emplace(s.arrival, &s);
}

const std::vector<Chunk>& Scheduler::schedule() {
  chunks_.clear();
  int budget = options_.max_batched_tokens;
  const int64_t preemptions = stats_.preemptions;
  schedule_running(/*decode=*/true, budget);
  schedule_running(/*decode=*/false, budget);
  // Blocks were short a moment ago: a newcomer now would only be preempted next.
  if (stats_.preemptions == preemptions) admit_waiting(budget);
  return chunks_;
}

void Scheduler::schedule_running(bool decode, int& budget) {
  // make_room preempts from the young end, so the iterator is followed by arrival number, not kept.
  for (auto it = running_.begin(); it != running_.end() && budget > 0;) {
    Sequence& s = *it->second;
    if ((s.num_remaining() == 1) == decode) {
      const int count = chunk_length(s, budget);
      if (make_room(s, count, budget)) {
        take_blocks(s, s.num_computed + count);
        chunks_.push_back({&s, s.num_computed, count});
        budget -= count;
      }
    }
    it = running_.upper_bound(s.arrival);
  }
}

void Scheduler::admit_waiting(int& budget) {
  for (auto it = waiting_.begin();
       it != waiting_.end() && budget > 0 && int(running_.size()) < options_.max_num_seqs;) {
    Sequence& s = *it->second;
    if (s.leader) {
      ++it;
      continue;
    }
    if (!admit(s)) return;  // first come, first served: nobody overtakes the head of the queue
    it = waiting_.erase(it);
    s.status = SequenceStatus::kRunning;
    running_.emplace(s.arrival, &s);
    const int count = chunk_length(s, budget);
    take_blocks(s, s.num_computed + count);
    chunks_.push_back({&s, s.num_computed, count});
    budget -= count;
  }
}

// Takes what the prefix cache has and checks that the rest of the tokens would fit beside everything that
// running sequences still need for theirs, plus one block of each group to generate into.
bool Scheduler::admit(Sequence& s) {
  PrefixCache::Match match;
  if (uses_cache(s)) match = cache_.acquire(s.keys(), std::min(s.length() - 1, s.max_cached_tokens));
  s.num_computed = std::max(match.num_tokens, s.assume_computed);
  s.global_blocks = std::move(match.global);
  s.local_blocks = std::move(match.local);
  s.tail = match.tail;
  s.num_registered = match.num_tokens / options_.block_size;

  const int64_t spare = running_.empty() ? 0 : 1;
  int64_t global_need = blocks_until_end(s) + spare;
  int64_t local_need = local_blocks_until_end(s) + spare;
  for (const auto& [arrival, other] : running_) {
    global_need += blocks_until_end(*other);
    local_need += local_blocks_until_end(*other);
  }
  const bool fits = (global_.num_blocks() == 0 || global_need <= global_.num_available()) &&
                    (local_.num_blocks() == 0 || local_need <= local_.num_available());
  if (!fits) {
    LLAMA4RT_CHECK(kInternal, !running_.empty(), "a sequence of ", s.length(),
                   " tokens does not fit into an empty cache of ", global_.num_blocks(), " global and ",
                   local_.num_blocks(), " local blocks of ", options_.block_size, " tokens");
    free_blocks(s);
    return false;
  }
  ++stats_.prefix_queries;
  stats_.prefix_query_tokens += s.length();
  stats_.prefix_hit_tokens += s.num_computed;
  if (s.cached_tokens < 0) s.cached_tokens = s.num_computed;
  return true;
}

int Scheduler::chunk_length(const Sequence& s, int budget) const {
  int64_t count = std::min<int64_t>(s.num_remaining(), budget);
  if (options_.attention_chunk > 0)
    count = std::min(count, options_.attention_chunk - s.num_computed % options_.attention_chunk);
  return int(count);
}

int64_t Scheduler::attention_chunk_begin(const Sequence& s) const {
  return options_.attention_chunk == 0 ? 0 : s.num_computed - s.num_computed % options_.attention_chunk;
}

// Global blocks the sequence's known tokens still need.
int64_t Scheduler::blocks_until_end(const Sequence& s) const {
  if (global_.num_blocks() == 0) return 0;
  return ceil_div(s.length(), int64_t(options_.block_size)) - int64_t(s.global_blocks.size());
}

// Most further local blocks it will hold at once: never more than a chunk.
int64_t Scheduler::local_blocks_until_end(const Sequence& s) const {
  if (local_.num_blocks() == 0) return 0;
  const int64_t tokens = std::min(s.length() - attention_chunk_begin(s), options_.attention_chunk);
  return ceil_div(tokens, int64_t(options_.block_size)) - int64_t(s.local_blocks.size());
}

// True when blocks for the next `count` tokens of s are available, after preempting younger sequences if it
// must. False: s is the youngest and older ones hold what it lacks, so it sits this step out.
bool Scheduler::make_room(Sequence& s, int count, int& budget) {
  const BlockNeed need = blocks_until(s, s.num_computed + count);
  while (global_.num_available() < need.global || local_.num_available() < need.local) {
    Sequence& youngest = *running_.rbegin()->second;
    if (&youngest == &s) {
      LLAMA4RT_CHECK(kInternal, running_.size() > 1, "a sequence of ", s.length(),
                     " tokens has outgrown the whole cache of ", global_.num_blocks(), " global and ",
                     local_.num_blocks(), " local blocks of ", options_.block_size, " tokens");
      return false;
    }
    preempt(youngest, budget);
  }
  return true;
}

// The blocks s lacks for its tokens before `end`.
Scheduler::BlockNeed Scheduler::blocks_until(const Sequence& s, int64_t end) const {
  const int64_t size = options_.block_size;
  BlockNeed need;
  if (global_.num_blocks() > 0) need.global = ceil_div(end, size) - int64_t(s.global_blocks.size());
  if (local_.num_blocks() > 0)
    need.local = ceil_div(end - attention_chunk_begin(s), size) - int64_t(s.local_blocks.size());
  return need;
}

std::vector<Chunk> Scheduler::schedule_ahead(std::span<const Chunk> chunks) {
  const bool others_wait = !waiting_.empty() && int(running_.size()) < options_.max_num_seqs;
  if (others_wait || running_.size() != chunks.size()) return {};
  BlockNeed all;
  for (const Chunk& chunk : chunks) {
    const Sequence& s = *chunk.sequence;
    if (s.status != SequenceStatus::kRunning || s.num_remaining() != 0) return {};
    const BlockNeed need = blocks_until(s, s.length() + 1);
    all.global += need.global;
    all.local += need.local;
  }
  if (all.global > global_.num_available() || all.local > local_.num_available()) return {};
  std::vector<Chunk> next;
  for (const Chunk& chunk : chunks) {
    Sequence& s = *chunk.sequence;
    take_blocks(s, s.length() + 1);
    next.push_back({&s, s.length(), 1});
  }
  return next;
}

void Scheduler::preempt(Sequence& s, int& budget) {
  const auto chunk =
      std::find_if(chunks_.begin(), chunks_.end(), [&](const Chunk& x) { return x.sequence == &s; });
  if (chunk != chunks_.end()) {
    budget += chunk->count;
    chunks_.erase(chunk);
  }
  free_blocks(s);
  running_.erase(s.arrival);
  s.status = SequenceStatus::kWaiting;
  waiting_.emplace(s.arrival, &s);
  ++stats_.preemptions;
}

void Scheduler::take_blocks(Sequence& s, int64_t end) {
  const int64_t size = options_.block_size;
  if (global_.num_blocks() > 0)
    while (int64_t(s.global_blocks.size()) * size < end) s.global_blocks.push_back(global_.allocate());
  if (local_.num_blocks() > 0)
    while (attention_chunk_begin(s) + int64_t(s.local_blocks.size()) * size < end)
      s.local_blocks.push_back(local_.allocate());
}

void Scheduler::commit(const Chunk& chunk, int accepted) {
  Sequence& s = *chunk.sequence;
  LLAMA4RT_ASSERT(s.status == SequenceStatus::kRunning && s.num_computed == chunk.begin);
  LLAMA4RT_ASSERT(accepted > 0 && accepted <= chunk.count);
  const bool was_prefilling = s.num_computed < s.num_prompt;
  s.num_computed += accepted;
  if (accepted < chunk.count) trim_blocks(s);
  if (uses_cache(s)) register_full_blocks(s);
  if (options_.attention_chunk > 0 && s.num_computed % options_.attention_chunk == 0) free_local_blocks(s);
  if (was_prefilling && s.num_computed >= s.num_prompt) wake_followers(s);
}

// Gives back the blocks behind the last computed position.
void Scheduler::trim_blocks(Sequence& s) {
  const int64_t size = options_.block_size;
  const auto trim = [size](BlockAllocator& group, std::vector<int32_t>& blocks, int64_t tokens) {
    for (; int64_t(blocks.size()) > ceil_div(tokens, size); blocks.pop_back()) group.release(blocks.back());
  };
  trim(global_, s.global_blocks, s.num_computed);
  trim(local_, s.local_blocks, s.num_computed - attention_chunk_begin(s));
}

void Scheduler::register_full_blocks(Sequence& s) {
  const int64_t size = options_.block_size;
  // All new full blocks lie in one chunk, the one local_blocks describes: chunks do not cross chunks.
  const int64_t chunk = options_.attention_chunk;
  for (; (s.num_registered + 1) * size <= s.num_computed; ++s.num_registered) {
    const int64_t begin = s.num_registered * size;
    int32_t none_global = BlockAllocator::kNoBlock;
    int32_t none_local = BlockAllocator::kNoBlock;
    int32_t& global = global_.num_blocks() > 0 ? s.global_blocks[size_t(s.num_registered)] : none_global;
    int32_t& local = local_.num_blocks() > 0 ? s.local_blocks[size_t(begin % chunk / size)] : none_local;
    s.tail = cache_.extend(s.tail, std::span(s.keys()).subspan(size_t(begin), size_t(size)), global, local);
  }
}

void Scheduler::release(Sequence& s) {
  if (s.status == SequenceStatus::kFinished) return;
  waiting_.erase(s.arrival);
  running_.erase(s.arrival);
  free_blocks(s);
  wake_followers(s);
  s.status = SequenceStatus::kFinished;
}

// Last blocks first, so that the cache evicts the ends of prefixes before their beginnings.
void Scheduler::free_blocks(Sequence& s) {
  free_local_blocks(s);
  for (; !s.global_blocks.empty(); s.global_blocks.pop_back()) global_.release(s.global_blocks.back());
  cache_.unpin(s.tail);
  s.tail = PrefixCache::kRoot;
  s.num_registered = 0;
  s.num_computed = 0;
}

void Scheduler::free_local_blocks(Sequence& s) {
  for (; !s.local_blocks.empty(); s.local_blocks.pop_back()) local_.release(s.local_blocks.back());
}

void Scheduler::wake_followers(const Sequence& leader) {
  for (auto& [arrival, s] : waiting_)
    if (s->leader == &leader) s->leader = nullptr;
}

SchedulerStats Scheduler::stats() const {
  SchedulerStats stats = stats_;
  stats.running = int64_t(running_.size());
  stats.waiting = int64_t(waiting_.size());
  return stats;
}

}  // namespace llama4rt
