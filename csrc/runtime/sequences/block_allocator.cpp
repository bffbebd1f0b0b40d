#include "runtime/sequences/block_allocator.h"

#include "base/error.h"

namespace llama4rt {

BlockAllocator::BlockAllocator(int32_t num_blocks) : blocks_(size_t(num_blocks)) {
  free_.reserve(size_t(num_blocks));
  for (int32_t block = num_blocks - 1; block >= 0; --block) free_.push_back(block);
}

int32_t BlockAllocator::allocate() {
  int32_t block = kNoBlock;
  if (!free_.empty()) {
    block = free_.back();
    free_.pop_back();
  } else if (oldest_ != kNoBlock) {
    block = oldest_;
    if (on_evict) on_evict(block);
    remove_from_order(block);
    blocks_[size_t(block)].cached = false;
  } else {
    return kNoBlock;
  }
  LLAMA4RT_ASSERT(blocks_[size_t(block)].references == 0);
  blocks_[size_t(block)].references = 1;
  return block;
}

void BlockAllocator::acquire(int32_t block) {
  Block& b = blocks_[size_t(block)];
  LLAMA4RT_ASSERT(b.references > 0 || b.cached);
  if (b.references == 0) remove_from_order(block);
  ++b.references;
}

void BlockAllocator::release(int32_t block) {
  Block& b = blocks_[size_t(block)];
  LLAMA4RT_ASSERT(b.references > 0);
  if (--b.references > 0) return;
  if (b.cached)
    append_to_order(block);
  else
    free_.push_back(block);
}

void BlockAllocator::set_cached(int32_t block, bool cached) {
  Block& b = blocks_[size_t(block)];
  if (b.cached == cached) return;
  // A free block has no contents worth keeping: only a block in use may become cached.
  LLAMA4RT_ASSERT(!cached || b.references > 0);
  b.cached = cached;
  if (cached || b.references > 0) return;
  remove_from_order(block);
  free_.push_back(block);
}

void BlockAllocator::append_to_order(int32_t block) {
  Block& b = blocks_[size_t(block)];
  b.previous = newest_;
  b.next = kNoBlock;
  (newest_ == kNoBlock ? oldest_ : blocks_[size_t(newest_)].next) = block;
  newest_ = block;
  ++num_cached_;
}

void BlockAllocator::remove_from_order(int32_t block) {
  Block& b = blocks_[size_t(block)];
  (b.previous == kNoBlock ? oldest_ : blocks_[size_t(b.previous)].next) = b.next;
  (b.next == kNoBlock ? newest_ : blocks_[size_t(b.next)].previous) = b.previous;
  b.previous = b.next = kNoBlock;
  --num_cached_;
}

}  // namespace llama4rt
