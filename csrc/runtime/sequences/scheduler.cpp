#include "runtime/sequences/scheduler.h"

#include <algorithm>
#include <climits>
#include <utility>

#include "base/checked_math.h"
#include "base/error.h"

namespace llama4rt {
namespace {

// Steps in which others are let in although the sequence that waits first for its client did not fit.
constexpr int kMaxRefusals = 256;

}  // namespace

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
  if (!uses_cache(s)) s.leader = nullptr;
  const auto [client, is_new] = clients_.try_emplace(s.client);
  if (is_new) client->second.last_turn = ++turns_;  // behind those that wait already
  enqueue(s);
}

void Scheduler::enqueue(Sequence& s) {
  s.status = SequenceStatus::kWaiting;
  Client& client = client_of(s);
  (s.held ? client.held : client.waiting).emplace(s.arrival, &s);
}

void Scheduler::hold(Sequence& s, bool held) {
  if (s.held == held || s.status == SequenceStatus::kFinished) return;
  s.held = held;
  if (s.status != SequenceStatus::kWaiting) return;  // a running one may be in a step that is on its way
  Client& client = client_of(s);
  (held ? client.waiting : client.held).erase(s.arrival);
  enqueue(s);
}

void Scheduler::set_held_aside(int& budget) {
  for (auto it = running_.begin(); it != running_.end();) {
    Sequence& s = *(it++)->second;
    if (s.held) preempt(s, budget);
  }
}

const std::vector<Chunk>& Scheduler::schedule() {
  chunks_.clear();
  int budget = options_.max_batched_tokens;
  set_held_aside(budget);
  const int64_t shortages = shortages_;
  schedule_running(nullptr, budget);
  bool may_admit = true;
  for (Client* const client : clients_in_turn()) {
    if (budget <= 0) break;
    const size_t before = chunks_.size();
    schedule_running(client, budget);
    // Blocks were short a moment ago: a newcomer now would only be preempted next.
    may_admit = may_admit && shortages_ == shortages && admit_waiting(*client, budget);
    if (chunks_.size() > before) client->last_turn = ++turns_;
  }
  return chunks_;
}

// Those with prompts to compute; whoever was served longest ago comes first.
std::vector<Scheduler::Client*> Scheduler::clients_in_turn() {
  std::vector<Client*> clients;
  for (auto& [id, client] : clients_)
    if (client.running > 0 || !client.waiting.empty()) clients.push_back(&client);
  std::sort(clients.begin(), clients.end(),
            [](const Client* a, const Client* b) { return a->last_turn < b->last_turn; });
  return clients;
}

// The running sequences that decode, or of one client those whose prompts are not computed yet.
void Scheduler::schedule_running(const Client* client, int& budget) {
  // make_room preempts from the young end, so the iterator is followed by arrival number, not kept.
  for (auto it = running_.begin(); it != running_.end() && budget > 0;) {
    Sequence& s = *it->second;
    const bool decodes = s.num_remaining() == 1;
    if (client ? !decodes && &client_of(s) == client : decodes) schedule_one(s, budget);
    it = running_.upper_bound(s.arrival);
  }
}

void Scheduler::schedule_one(Sequence& s, int& budget) {
  const int count = chunk_length(s, budget);
  if (!make_room(s, count, budget)) return;
  take_blocks(s, s.num_computed + count);
  chunks_.push_back({&s, s.num_computed, count});
  budget -= count;
}

// The one to let in next: the oldest of a request that has none running, else of the one that has fewest. So a
// request with many outputs does not keep out its client's others. Null when all wait for their leaders.
Sequence* Scheduler::first_waiting(const Client& client) const {
  Sequence* first = nullptr;
  int fewest = INT_MAX;
  for (const auto& [arrival, s] : client.waiting) {
    if (s->leader) continue;
    const int running = running_of_request(*s);
    if (running >= fewest) continue;
    first = s;
    fewest = running;
    if (running == 0) break;
  }
  return first;
}

int Scheduler::running_of_request(const Sequence& s) const {
  return int(std::count_if(running_.begin(), running_.end(), [&](const auto& entry) {
    return entry.second->of_request == s.of_request && entry.second->client == s.client;
  }));
}

// False: nobody else may be let in during this step.
bool Scheduler::admit_waiting(Client& client, int& budget) {
  while (budget > 0) {
    Sequence* const first = first_waiting(client);
    if (!first) return true;
    Sequence& s = *first;
    const bool has_place = int(running_.size()) < options_.max_num_seqs;
    // A place is of no use to a sequence that did not fit a moment ago.
    if (!has_place && (client.refusals > 0 || !displace_for(s, budget))) return true;
    while (!admit(s)) {
      // Nobody overtakes the first of its client's queue, and others not for ever.
      if (!displace_for_blocks(s, budget)) return ++client.refusals < kMaxRefusals;
    }
    client.refusals = 0;
    client.in_vain = false;
    client.waiting.erase(s.arrival);
    s.status = SequenceStatus::kRunning;
    running_.emplace(s.arrival, &s);
    ++client.running;
    const int count = chunk_length(s, budget);
    take_blocks(s, s.num_computed + count);
    chunks_.push_back({&s, s.num_computed, count});
    budget -= count;
  }
  return true;
}

// Of the client that has the most running, and of its request that has the most, the youngest sequence; among
// equals the youngest client and request.
Sequence& Scheduler::next_to_preempt() {
  Sequence* found = nullptr;
  std::pair<int, int> most;
  for (auto it = running_.rbegin(); it != running_.rend(); ++it) {
    const std::pair running(client_of(*it->second).running, running_of_request(*it->second));
    if (running > most) {
      most = running;
      found = it->second;
    }
  }
  return *found;
}

// Makes a place for s, if its client or its request has fewer than its share. False: it must wait.
bool Scheduler::displace_for(const Sequence& s, int& budget) {
  Sequence& other = next_to_preempt();
  const bool may = may_displace(s, other);
  if (may) preempt(other, budget);
  return may;
}

bool Scheduler::may_displace(const Sequence& s, const Sequence& other) {
  // With less of a difference they would only change places.
  return s.client == other.client ? running_of_request(other) >= running_of_request(s) + 2
                                  : client_of(other).running >= client_of(s).running + 2;
}

// The same for the blocks that s lacks, if one sequence has them.
bool Scheduler::displace_for_blocks(const Sequence& s, int& budget) {
  Client& client = client_of(s);
  if (client.in_vain || running_.empty()) return false;
  const Sequence& other = next_to_preempt();
  if (int64_t(other.global_blocks.size()) + blocks_until_end(other) < lacking_.global ||
      int64_t(other.local_blocks.size()) + local_blocks_until_end(other) < lacking_.local)
    return false;
  // Once, until it has been let in: blocks that others share are not free because one of them has gone.
  client.in_vain = displace_for(s, budget);
  return client.in_vain;
}

// Takes what the prefix cache has and checks that the rest of the tokens would fit beside everything that
// running sequences still need for theirs, plus one block of each group to generate into.
bool Scheduler::admit(Sequence& s) {
  PrefixCache::Match match;
  if (uses_cache(s))
    match = cache_.acquire(s.keys(), std::min(s.length() - 1, s.max_cached_tokens), s.cache_root);
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
    lacking_ = {global_need - global_.num_available(), local_need - local_.num_available()};
    free_blocks(s);
    return false;
  }
  if (on_known_block) {
    PrefixCache::NodeId node = s.tail;
    for (int64_t block = s.num_registered; block-- > 0; node = cache_.parent_of(node))
      on_known_block(s, block, node);
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

// True when blocks for the next `count` tokens of s are available, after preempting others if it must. False:
// s would be the one to give way, and others hold what it lacks, so it sits this step out.
bool Scheduler::make_room(Sequence& s, int count, int& budget) {
  const BlockNeed need = blocks_until(s, s.num_computed + count);
  while (global_.num_available() < need.global || local_.num_available() < need.local) {
    Sequence& other = next_to_preempt();
    if (&other == &s) {
      LLAMA4RT_CHECK(kInternal, running_.size() > 1, "a sequence of ", s.length(),
                     " tokens has outgrown the whole cache of ", global_.num_blocks(), " global and ",
                     local_.num_blocks(), " local blocks of ", options_.block_size, " tokens");
      return false;
    }
    ++shortages_;
    preempt(other, budget);
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

// Whether somebody waits who could get a place.
bool Scheduler::others_may_run() {
  const bool has_place = int(running_.size()) < options_.max_num_seqs;
  return std::any_of(clients_.begin(), clients_.end(), [&](const auto& entry) {
    const Sequence* const first = first_waiting(entry.second);
    return !entry.second.waiting.empty() && (has_place || (first && may_displace(*first, next_to_preempt())));
  });
}

int Scheduler::extend(size_t chunk, std::span<const int32_t> guesses) {
  Chunk& c = chunks_.at(chunk);
  Sequence& s = *c.sequence;
  LLAMA4RT_ASSERT(c.guesses.empty() && c.count == 1 && c.end() == s.length());
  int64_t count = options_.max_batched_tokens;
  for (const Chunk& other : chunks_) count -= other.count;
  count = std::min(count, int64_t(guesses.size()));
  if (options_.attention_chunk > 0)
    count = std::min(count, options_.attention_chunk - 1 - s.num_computed % options_.attention_chunk);
  const auto fits = [&](int64_t more) {
    const BlockNeed need = blocks_until(s, c.end() + more);
    return need.global <= global_.num_available() && need.local <= local_.num_available();
  };
  while (count > 0 && !fits(count)) --count;
  if (count <= 0) return 0;
  take_blocks(s, c.end() + count);
  c.guesses.assign(guesses.begin(), guesses.begin() + count);
  c.count += int(count);
  return int(count);
}

std::vector<Chunk> Scheduler::schedule_ahead(std::span<const Chunk> chunks) {
  if (running_.size() != chunks.size() || others_may_run()) return {};
  BlockNeed all;
  for (const Chunk& chunk : chunks) {
    const Sequence& s = *chunk.sequence;
    if (s.status != SequenceStatus::kRunning || s.held || s.num_remaining() != 0) return {};
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
  --client_of(s).running;
  enqueue(s);
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
    if (on_known_block) on_known_block(s, s.num_registered, s.tail);
  }
}

PrefixCache::NodeId Scheduler::restore_block(PrefixCache::NodeId parent, std::span<const int32_t> keys,
                                             bool global, bool local,
                                             const std::function<void(int32_t, int32_t)>& fill) {
  if ((global && global_.num_available() == 0) || (local && local_.num_available() == 0))
    return PrefixCache::kRoot;
  int32_t global_block = global ? global_.allocate() : BlockAllocator::kNoBlock;
  int32_t local_block = local ? local_.allocate() : BlockAllocator::kNoBlock;
  fill(global_block, local_block);
  const PrefixCache::NodeId node = cache_.extend(parent, keys, global_block, local_block);
  // Nobody's, but the latest to be given to others.
  if (global) global_.release(global_block);
  if (local) local_.release(local_block);
  return node;
}

void Scheduler::release(Sequence& s) {
  if (s.status == SequenceStatus::kFinished) return;
  if (s.status != SequenceStatus::kNew) {
    Client& client = client_of(s);
    client.waiting.erase(s.arrival);
    client.held.erase(s.arrival);
    if (running_.erase(s.arrival) > 0) --client.running;
    free_blocks(s);
    wake_followers(s);
    if (client.running == 0 && client.waiting.empty() && client.held.empty()) clients_.erase(s.client);
  }
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
  Client& client = client_of(leader);
  for (auto* const queue : {&client.waiting, &client.held})
    for (auto& [arrival, s] : *queue)
      if (s->leader == &leader) s->leader = nullptr;
}

int64_t Scheduler::num_waiting() const {
  int64_t waiting = 0;
  for (const auto& [id, client] : clients_) waiting += int64_t(client.waiting.size());
  return waiting;
}

SchedulerStats Scheduler::stats() const {
  SchedulerStats stats = stats_;
  stats.running = int64_t(running_.size());
  stats.waiting = num_waiting();
  for (const auto& [id, client] : clients_) stats.waiting += int64_t(client.held.size());
  return stats;
}

}  // namespace llama4rt
