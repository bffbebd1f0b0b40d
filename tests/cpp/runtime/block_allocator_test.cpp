// The allocator against a model so plain that it cannot be wrong: sets and a list.
#include "runtime/sequences/block_allocator.h"

#include <algorithm>
#include <list>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "test.h"

namespace llama4rt {
namespace {

TEST(gives_every_block_once) {
  BlockAllocator blocks(5);
  std::set<int32_t> seen;
  for (int i = 0; i < 5; ++i) seen.insert(blocks.allocate());
  CHECK_EQ(seen.size(), size_t(5));
  CHECK_EQ(*seen.begin(), 0);
  CHECK_EQ(*seen.rbegin(), 4);
  CHECK_EQ(blocks.allocate(), BlockAllocator::kNoBlock);
  CHECK_EQ(blocks.num_used(), 5);
  for (int32_t block : seen) blocks.release(block);
  CHECK_EQ(blocks.num_free(), 5);
}

TEST(evicts_the_least_recently_released) {
  BlockAllocator blocks(3);
  std::vector<int32_t> evicted;
  blocks.on_evict = [&](int32_t block) { evicted.push_back(block); };
  for (int i = 0; i < 3; ++i) blocks.set_cached(blocks.allocate(), true);
  for (int32_t block : {1, 0, 2}) blocks.release(block);
  CHECK_EQ(blocks.num_cached(), 3);
  CHECK_EQ(blocks.num_available(), 3);
  blocks.acquire(1);  // a hit: 1 leaves the order and comes back as the newest
  blocks.release(1);
  CHECK_EQ(blocks.allocate(), 0);
  CHECK_EQ(blocks.allocate(), 2);
  CHECK_EQ(blocks.allocate(), 1);
  CHECK((evicted == std::vector<int32_t>{0, 2, 1}));
  CHECK_EQ(blocks.allocate(), BlockAllocator::kNoBlock);
}

TEST(matches_a_simple_model_under_random_operations) {
  std::mt19937 random(20250405);
  for (int run = 0; run < 40; ++run) {
    const int32_t n = int32_t(random() % 12);
    BlockAllocator blocks(n);
    std::map<int32_t, int> references;  // > 0
    std::set<int32_t> cached;           // marked
    std::list<int32_t> order;           // marked and unused, oldest first
    std::set<int32_t> free;
    for (int32_t b = 0; b < n; ++b) free.insert(b);
    int32_t last_evicted = BlockAllocator::kNoBlock;
    blocks.on_evict = [&](int32_t block) { last_evicted = block; };
    const auto used_block = [&] {
      auto it = references.begin();
      std::advance(it, random() % references.size());
      return it->first;
    };
    for (int step = 0; step < 500; ++step) {
      switch (random() % 5) {
        case 0: {
          last_evicted = BlockAllocator::kNoBlock;
          const int32_t block = blocks.allocate();
          if (!free.empty()) {
            CHECK(free.erase(block) == 1);
          } else if (!order.empty()) {
            CHECK_EQ(block, order.front());
            CHECK_EQ(last_evicted, block);
            order.pop_front();
            cached.erase(block);
          } else {
            CHECK_EQ(block, BlockAllocator::kNoBlock);
            break;
          }
          references[block] = 1;
          break;
        }
        case 1:
          if (!order.empty() && random() % 2) {
            auto it = order.begin();
            std::advance(it, random() % order.size());
            const int32_t block = *it;
            order.erase(it);
            blocks.acquire(block);
            references[block] = 1;
          } else if (!references.empty()) {
            const int32_t block = used_block();
            blocks.acquire(block);
            ++references[block];
          }
          break;
        case 2:
        case 3:
          if (!references.empty()) {
            const int32_t block = used_block();
            blocks.release(block);
            if (--references[block] == 0) {
              references.erase(block);
              if (cached.count(block))
                order.push_back(block);
              else
                free.insert(block);
            }
          }
          break;
        case 4:
          if (!references.empty() && random() % 3) {
            const int32_t block = used_block();
            blocks.set_cached(block, true);
            cached.insert(block);
          } else if (!cached.empty()) {
            auto it = cached.begin();
            std::advance(it, random() % cached.size());
            const int32_t block = *it;
            cached.erase(it);
            blocks.set_cached(block, false);
            if (!references.count(block)) {
              order.remove(block);
              free.insert(block);
            }
          }
          break;
      }
      CHECK_EQ(size_t(blocks.num_free()), free.size());
      CHECK_EQ(size_t(blocks.num_cached()), order.size());
      CHECK_EQ(size_t(blocks.num_used()), references.size());
      for (const auto& [block, count] : references) CHECK_EQ(blocks.references(block), count);
    }
  }
}

}  // namespace
}  // namespace llama4rt
