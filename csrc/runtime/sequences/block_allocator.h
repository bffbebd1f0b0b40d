// BlockAllocator: which blocks of one KV group are free, in use, or kept because their contents may be
// reused. Pure bookkeeping over block numbers 0..n-1: it knows no tensor, no token and no sequence. A block
// in use has a reference count; a block that the prefix cache has marked and that nobody uses waits in
// least-recently-used order and is given out again, oldest first, only when no free block is left.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace llama4rt {

class BlockAllocator {
 public:
  static constexpr int32_t kNoBlock = -1;

  explicit BlockAllocator(int32_t num_blocks);

  int32_t num_blocks() const { return int32_t(blocks_.size()); }
  int32_t num_free() const { return int32_t(free_.size()); }           // never written, or forgotten
  int32_t num_cached() const { return num_cached_; }                   // unused but reusable
  int32_t num_available() const { return num_free() + num_cached(); }  // what allocate() can still give
  int32_t num_used() const { return num_blocks() - num_available(); }  // referenced by a sequence

  // A block with one reference, or kNoBlock when every block is in use.
  int32_t allocate();
  // One more reference; a cached block leaves the eviction order.
  void acquire(int32_t block);
  // One reference less; the last one frees the block, or queues it for eviction when it is cached.
  void release(int32_t block);

  // Marks or unmarks a block as reusable. Unmarking an unused block frees it. Does not call on_evict.
  void set_cached(int32_t block, bool cached);
  bool cached(int32_t block) const { return blocks_[size_t(block)].cached; }
  int32_t references(int32_t block) const { return blocks_[size_t(block)].references; }

  // Called by allocate() just before a cached block changes owner.
  std::function<void(int32_t block)> on_evict;

 private:
  struct Block {
    int32_t references = 0;
    int32_t previous = kNoBlock;  // neighbours in eviction order, while cached and unused
    int32_t next = kNoBlock;
    bool cached = false;
  };

  void append_to_order(int32_t block);
  void remove_from_order(int32_t block);

  std::vector<Block> blocks_;
  std::vector<int32_t> free_;  // a stack; low numbers are given out first
  int32_t oldest_ = kNoBlock;  // next to be evicted
  int32_t newest_ = kNoBlock;
  int32_t num_cached_ = 0;
};

}  // namespace llama4rt
