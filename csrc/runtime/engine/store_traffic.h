// StoreTraffic: what goes between the prefix cache and a block store. Outward, each block that the prefix cache comes to
// know, copied out of the device's memory between steps. Inward, the leading blocks of a request that the store has and
// the prefix cache has not: the request waits here until they have been read and placed in the prefix cache, where it
// then finds them like any others. No disk is waited for while there is a step to take.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <vector>

#include "runtime/engine/request_state.h"
#include "runtime/runner/kv_cache.h"
#include "runtime/sequences/scheduler.h"
#include "runtime/store/kv_store.h"

namespace llama4rt {

class StoreTraffic {
 public:
  // All outlive it. Takes over scheduler.on_known_block.
  StoreTraffic(KvStore& store, Scheduler& scheduler, KvCache& cache, const KvCachePlan& plan);
  ~StoreTraffic();
  StoreTraffic(const StoreTraffic&) = delete;
  StoreTraffic& operator=(const StoreTraffic&) = delete;

  // False: the store has nothing for this request that the prefix cache has not. True: take_ready() gives it back.
  bool begin(RequestState& state);
  // Places what has been read, and returns requests that have all they will get.
  std::vector<RequestState*> take_ready();
  // The request has left the engine.
  void forget(const RequestState& state);
  int64_t num_waiting() const;  // sequences of requests that wait here

  // Copies blocks out, as many as the store takes now.
  void send();
  // The same for all of them; waits for the disk.
  void send_all();
  void discard_outgoing() { outgoing_.clear(); }

  bool has_work() const { return !incoming_.empty() || !outgoing_.empty(); }
  // For a while, or until there is something to do.
  void wait(std::chrono::milliseconds most) const;
  int64_t num_outgoing() const { return int64_t(outgoing_.size()); }

 private:
  struct Outgoing {
    BlockName name;  // of either group
    PrefixCache::NodeId node;
  };
  struct Incoming {
    RequestState* state;
    std::shared_ptr<KvStore::Reading> reading;
    struct Block {
      bool global = false, local = false;  // is read
    };
    std::vector<Block> blocks;  // of the prefix, in order
    size_t next = 0;            // to be placed
    PrefixCache::NodeId tail = PrefixCache::kRoot;
    std::vector<std::vector<std::byte>> payloads;  // of the next block, as far as they are there
  };

  void on_known_block(Sequence& sequence, int64_t block, PrefixCache::NodeId node);
  BlockKey chain_root(const Sequence& sequence) const;
  bool place(Incoming& incoming);
  void end(Incoming& incoming);
  bool has_group(StoreGroup group) const { return store_.shape().bytes_of(group) > 0; }

  KvStore& store_;
  Scheduler& scheduler_;
  KvCache& cache_;
  const int64_t block_size_;
  const int64_t attention_chunk_;
  std::deque<Outgoing> outgoing_;
  std::list<Incoming> incoming_;
  // Of requests that have been given back: the node of the last block that was placed. Without a global group it may be
  // that no block holds the nodes of a prefix, and the pin does.
  std::vector<std::pair<const RequestState*, PrefixCache::NodeId>> placed_;
};

// Names of the blocks of a text, with as many of its local ones as its end needs. pictures: digest and number of rows
// of each, which take the places of the patch tokens in order.
std::vector<BlockName> names_of_blocks(std::span<const int32_t> tokens, int64_t patch_token_id,
                                       std::span<const std::pair<std::string, int64_t>> pictures,
                                       const StoreShape& shape, int64_t attention_chunk);

}  // namespace llama4rt
