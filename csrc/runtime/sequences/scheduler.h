// Scheduler: decides which tokens of which sequences the next step computes, and owns every block of keys and
// values. Pure host logic without tensors: tests run thousands of steps in milliseconds.
//
// Rules: one token for every generating sequence first, then chunks of prompts up to max_batched_tokens. A
// chunk never crosses an attention chunk boundary of the local layers. Clients take turns: the one that was
// served longest ago goes first, its oldest prompts first, running before waiting. One client may have all
// places; when another waits that has at least two fewer, the youngest sequence of the one with the most
// makes room; and so among the requests of one client. When blocks run out, that sequence makes room, too. It
// gives all of its blocks back and returns to its place in the waiting queue; its tokens are kept and computed
// again later. The oldest sequence therefore never has to, and a sequence that fits into an empty cache always
// ends.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <vector>

#include "runtime/sequences/block_allocator.h"
#include "runtime/sequences/prefix_cache.h"
#include "runtime/sequences/sequence.h"

namespace llama4rt {

struct SchedulerOptions {
  int block_size = 16;            // P
  int64_t attention_chunk = 0;    // C of the local group, a multiple of P; 0 when there is no such group
  int32_t num_global_blocks = 0;  // 0 when no layer attends globally
  int32_t num_local_blocks = 0;
  int max_num_seqs = 16;
  int max_batched_tokens = 512;  // at least max_num_seqs, so that the oldest always gets a token
  bool prefix_cache = true;
  int prefix_hash_bits = 64;
};

struct SchedulerStats {
  int64_t running = 0, waiting = 0;
  int64_t preemptions = 0;
  int64_t prefix_queries = 0, prefix_query_tokens = 0, prefix_hit_tokens = 0;
};

class Scheduler {
 public:
  explicit Scheduler(const SchedulerOptions& options);

  // Queues a new sequence by its arrival number. The caller keeps it alive until release().
  void add(Sequence& sequence);
  // The chunks of the next step, with blocks for every token in them; empty when nothing can run.
  const std::vector<Chunk>& schedule();
  // Lengthens a chunk of the latest schedule(), of one token, by as many guesses of what follows as fit into the
  // step, the attention chunk and blocks that nobody has to give up for them. Returns how many.
  int extend(size_t chunk, std::span<const int32_t> guesses);
  // The step after `chunks`, the latest step, whose tokens are not known yet: one more token for each of its
  // sequences. Empty, and nothing is done, when it would be another step: somebody else runs or could be let
  // in, a chunk ends before the last known token, or there are no blocks without preempting.
  std::vector<Chunk> schedule_ahead(std::span<const Chunk> chunks);
  // The chunk's keys and values are computed, and the tokens of its first `accepted` positions are final (all
  // of them, unless some were guesses): advances the sequence past those, shares their full blocks through
  // the prefix cache, gives back blocks that hold none of them, and frees the local blocks of a finished
  // attention chunk.
  void commit(const Chunk& chunk, int accepted);
  // Takes a sequence out of the steps from the next one on, or back in. It keeps its tokens and its place in
  // the queue, and gives its blocks to others. Finished ones are ignored.
  void hold(Sequence& sequence, bool held);
  // The one way out, whatever the reason: frees everything the sequence holds. Twice is harmless.
  void release(Sequence& sequence);

  // Called with each block of a sequence that the prefix cache has come to know: computed and final, or found there when
  // the sequence was let in. block: its number in the sequence.
  std::function<void(Sequence& sequence, int64_t block, PrefixCache::NodeId node)> on_known_block;

  // A block of a prefix comes from elsewhere. The caller names the node before it, which it has pinned, or the root;
  // the pin moves on to the block's node, which is returned. fill(global, local) writes the keys and values of the new
  // blocks, each kNoBlock unless it was asked for. kRoot, and nothing happens, when there is no block to give.
  PrefixCache::NodeId restore_block(PrefixCache::NodeId parent, std::span<const int32_t> keys, bool global,
                                    bool local,
                                    const std::function<void(int32_t global, int32_t local)>& fill);
  void unpin(PrefixCache::NodeId node) { cache_.unpin(node); }

  // Held sequences are none.
  bool has_work() const { return !running_.empty() || num_waiting() > 0; }
  SchedulerStats stats() const;
  const BlockAllocator& global_blocks() const { return global_; }
  const BlockAllocator& local_blocks() const { return local_; }
  const PrefixCache& prefix_cache() const { return cache_; }

 private:
  bool uses_cache(const Sequence& s) const { return options_.prefix_cache && s.use_prefix_cache; }
  int chunk_length(const Sequence& s, int budget) const;
  int64_t attention_chunk_begin(const Sequence& s) const;
  int64_t blocks_until_end(const Sequence& s) const;
  int64_t local_blocks_until_end(const Sequence& s) const;
  struct BlockNeed {
    int64_t global = 0, local = 0;
  };
  struct Client {
    std::map<uint64_t, Sequence*> waiting;  // by arrival
    std::map<uint64_t, Sequence*> held;     // that would wait, or run
    int running = 0;
    uint64_t last_turn = 0;  // rises with each client that is served
    int refusals = 0;        // in a row, of the sequence that waits first, because it did not fit
    bool in_vain = false;    // room was made for that sequence and it did not fit all the same
  };

  int64_t num_waiting() const;
  bool others_may_run();
  std::vector<Client*> clients_in_turn();
  void schedule_running(const Client* client, int& budget);
  void schedule_one(Sequence& s, int& budget);
  bool admit_waiting(Client& client, int& budget);
  bool admit(Sequence& s);
  Sequence* first_waiting(const Client& client) const;
  int running_of_request(const Sequence& s) const;
  bool may_displace(const Sequence& s, const Sequence& other);
  bool displace_for(const Sequence& s, int& budget);
  bool displace_for_blocks(const Sequence& s, int& budget);
  Sequence& next_to_preempt();
  Client& client_of(const Sequence& s) { return clients_.at(s.client); }
  void enqueue(Sequence& s);
  void set_held_aside(int& budget);
  bool make_room(Sequence& s, int count, int& budget);
  void preempt(Sequence& s, int& budget);
  BlockNeed blocks_until(const Sequence& s, int64_t end) const;
  void take_blocks(Sequence& s, int64_t end);
  void free_blocks(Sequence& s);
  void free_local_blocks(Sequence& s);
  void trim_blocks(Sequence& s);
  void register_full_blocks(Sequence& s);
  void wake_followers(const Sequence& leader);

  const SchedulerOptions options_;
  BlockAllocator global_;
  BlockAllocator local_;
  PrefixCache cache_;
  std::map<uint64_t, Client> clients_;     // that have sequences here
  std::map<uint64_t, Sequence*> running_;  // by arrival
  uint64_t turns_ = 0;                     // taken so far
  int64_t shortages_ = 0;                  // sequences that gave way because blocks were short
  BlockNeed lacking_;                      // of the latest sequence that did not fit
  std::vector<Chunk> chunks_;
  SchedulerStats stats_;
};

}  // namespace llama4rt
