// PrefixCache: finds blocks of keys and values that an earlier sequence computed for the same leading tokens.
// Exact by construction: it is a trie whose nodes stand for (parent node, the P tokens of one block). A hash
// only narrows the search; parent and tokens are then compared, so a collision costs time and never a result.
// It holds no keys or values and no tokens of partial blocks.
//
// A node carries the block of the global group and the block of the local group that hold its tokens; either
// may have been evicted. A prefix of n tokens can be resumed when the global blocks of [0, n) and the local
// blocks of [n - n % C, n) are there: layers that attend in chunks of C never look further back, and at a
// attention chunk boundary they need nothing.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "runtime/sequences/block_allocator.h"

namespace llama4rt {

class PrefixCache {
 public:
  using NodeId = uint64_t;  // never reused
  static constexpr NodeId kRoot = 0;
  // Further roots, for what shares nothing with each other though tokens be equal: from here on, as the caller numbers
  // them.
  static constexpr NodeId kFirstOwnRoot = NodeId(1) << 63;
  static constexpr int32_t kNoBlock = BlockAllocator::kNoBlock;

  // A group without blocks (num_blocks() == 0) does not exist in the model. hash_bits < 64 is for tests of
  // collisions. Takes over both allocators' on_evict.
  PrefixCache(BlockAllocator& global, BlockAllocator& local, int block_size, int64_t attention_chunk,
              int hash_bits = 64);
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  struct Match {
    int64_t num_tokens = 0;       // n, a multiple of P
    NodeId tail = kRoot;          // node of the last matched block, pinned for the caller
    std::vector<int32_t> global;  // blocks of [0, n), acquired for the caller; empty without a global group
    std::vector<int32_t> local;   // blocks of [n - n % C, n), acquired for the caller
  };
  // The longest resumable prefix of `tokens` with at most max_tokens tokens. Of none, the tail is the root.
  Match acquire(std::span<const int32_t> tokens, int64_t max_tokens, NodeId root = kRoot);

  // The caller has computed the block of `tokens` (P of them) that follows `parent`, which it has pinned (or
  // a root). Moves the pin to the block's node and returns it. When an equal block is cached already, the
  // caller's is released and replaced by it: same tokens give the same bits, and memory is kept once.
  NodeId extend(NodeId parent, std::span<const int32_t> tokens, int32_t& global_block, int32_t& local_block);

  // Ends the caller's interest in a node from acquire() or extend().
  void unpin(NodeId node);

  // What is there of a prefix, without acquiring it: of its first blocks, in order, until one is unknown.
  struct Known {
    bool global = false, local = false;  // has a block of this group
  };
  std::vector<Known> known(std::span<const int32_t> tokens, NodeId root = kRoot) const;
  // The blocks that a node has now, kNoBlock for those it has not; also of a node that is gone.
  std::pair<int32_t, int32_t> blocks_of(NodeId node) const;
  // kRoot where there is none.
  NodeId parent_of(NodeId node) const;

  size_t num_nodes() const { return nodes_.size(); }

 private:
  struct Node {
    NodeId parent = kRoot;
    uint64_t hash = 0;
    std::vector<int32_t> tokens;
    int32_t global = kNoBlock;
    int32_t local = kNoBlock;
    int32_t children = 0;
    int32_t pins = 0;  // sequences whose last full block this is
  };

  static bool is_root(NodeId id) { return id == kRoot || id >= kFirstOwnRoot; }
  uint64_t hash_of(NodeId parent, std::span<const int32_t> tokens) const;
  NodeId find(NodeId parent, std::span<const int32_t> tokens) const;  // kRoot when absent
  NodeId insert(NodeId parent, std::span<const int32_t> tokens);
  void erase_if_useless(NodeId id);
  void evicted_global(int32_t block);
  void evicted_local(int32_t block);
  static void adopt(BlockAllocator& allocator, std::vector<NodeId>& owner, int32_t& cached, int32_t& mine,
                    NodeId id);

  BlockAllocator& global_;
  BlockAllocator& local_;
  const size_t block_size_;
  const int64_t attention_chunk_;
  const uint64_t hash_mask_;
  NodeId next_id_ = 1;
  std::unordered_map<NodeId, Node> nodes_;
  std::unordered_multimap<uint64_t, NodeId> by_hash_;
  std::vector<NodeId> global_owner_;  // [blocks] node of each cached block
  std::vector<NodeId> local_owner_;
};

}  // namespace llama4rt
