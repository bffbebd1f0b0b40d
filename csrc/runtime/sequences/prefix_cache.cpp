#include "runtime/sequences/prefix_cache.h"

#include <algorithm>

#include "base/error.h"

namespace llama4rt {
namespace {

// splitmix64's finaliser: every input bit reaches every output bit.
uint64_t mix(uint64_t x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9u;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

PrefixCache::PrefixCache(BlockAllocator& global, BlockAllocator& local, int block_size,
                         int64_t attention_chunk, int hash_bits)
    : global_(global),
      local_(local),
      block_size_(size_t(block_size)),
      attention_chunk_(attention_chunk),
      hash_mask_(hash_bits >= 64 ? ~uint64_t(0) : (uint64_t(1) << hash_bits) - 1),
      global_owner_(size_t(global.num_blocks()), kRoot),
      local_owner_(size_t(local.num_blocks()), kRoot) {
  global_.on_evict = [this](int32_t block) { evicted_global(block); };
  local_.on_evict = [this](int32_t block) { evicted_local(block); };
}

PrefixCache::Match PrefixCache::acquire(std::span<const int32_t> tokens, int64_t max_tokens, NodeId root) {
  const bool has_global = global_.num_blocks() > 0;
  const size_t limit = std::min(tokens.size(), size_t(std::max<int64_t>(max_tokens, 0))) / block_size_;
  std::vector<NodeId> path;
  size_t longest = 0;    // blocks of the longest resumable prefix
  size_t local_run = 0;  // consecutive blocks with a local copy that end at the current one
  for (NodeId id = root; path.size() < limit;) {
    id = find(id, tokens.subspan(path.size() * block_size_, block_size_));
    if (id == kRoot) break;
    const Node& node = nodes_.at(id);
    if (has_global && node.global == kNoBlock) break;
    path.push_back(id);
    local_run = node.local == kNoBlock ? 0 : local_run + 1;
    const size_t into_chunk =
        attention_chunk_ == 0 ? 0 : path.size() * block_size_ % size_t(attention_chunk_) / block_size_;
    if (local_run >= into_chunk) longest = path.size();
  }

  Match match;
  match.tail = root;
  if (longest == 0) return match;
  match.num_tokens = int64_t(longest * block_size_);
  match.tail = path[longest - 1];
  ++nodes_.at(match.tail).pins;
  const size_t local_blocks =
      attention_chunk_ == 0 ? 0 : size_t(match.num_tokens % attention_chunk_) / block_size_;
  for (size_t i = 0; i < longest; ++i) {
    const Node& node = nodes_.at(path[i]);
    if (has_global) {
      global_.acquire(node.global);
      match.global.push_back(node.global);
    }
    if (i >= longest - local_blocks) {
      local_.acquire(node.local);
      match.local.push_back(node.local);
    }
  }
  return match;
}

std::vector<PrefixCache::Known> PrefixCache::known(std::span<const int32_t> tokens, NodeId root) const {
  std::vector<Known> out;
  NodeId id = root;
  while ((out.size() + 1) * block_size_ <= tokens.size()) {
    id = find(id, tokens.subspan(out.size() * block_size_, block_size_));
    if (id == kRoot) break;
    const Node& node = nodes_.at(id);
    out.push_back({node.global != kNoBlock, node.local != kNoBlock});
  }
  return out;
}

std::pair<int32_t, int32_t> PrefixCache::blocks_of(NodeId id) const {
  const auto it = nodes_.find(id);
  if (it == nodes_.end()) return {kNoBlock, kNoBlock};
  return {it->second.global, it->second.local};
}

PrefixCache::NodeId PrefixCache::parent_of(NodeId id) const {
  const auto it = nodes_.find(id);
  return it == nodes_.end() ? kRoot : it->second.parent;
}

PrefixCache::NodeId PrefixCache::extend(NodeId parent, std::span<const int32_t> tokens, int32_t& global_block,
                                        int32_t& local_block) {
  LLAMA4RT_ASSERT(tokens.size() == block_size_);
  NodeId id = find(parent, tokens);
  if (id == kRoot) id = insert(parent, tokens);
  Node& node = nodes_.at(id);
  ++node.pins;  // before anything that could erase it
  adopt(global_, global_owner_, node.global, global_block, id);
  adopt(local_, local_owner_, node.local, local_block, id);
  unpin(parent);
  return id;
}

void PrefixCache::adopt(BlockAllocator& allocator, std::vector<NodeId>& owner, int32_t& cached, int32_t& mine,
                        NodeId id) {
  if (mine == kNoBlock || cached == mine) return;
  if (cached == kNoBlock) {
    allocator.set_cached(mine, true);
    owner[size_t(mine)] = id;
    cached = mine;
    return;
  }
  allocator.acquire(cached);
  allocator.release(mine);
  mine = cached;
}

void PrefixCache::unpin(NodeId id) {
  if (is_root(id)) return;
  Node& node = nodes_.at(id);
  LLAMA4RT_ASSERT(node.pins > 0);
  --node.pins;
  erase_if_useless(id);
}

uint64_t PrefixCache::hash_of(NodeId parent, std::span<const int32_t> tokens) const {
  uint64_t h = mix(parent + 0x9e3779b97f4a7c15u);
  for (int32_t token : tokens) h = mix(h ^ uint32_t(token)) + 0x9e3779b97f4a7c15u;
  return h & hash_mask_;
}

PrefixCache::NodeId PrefixCache::find(NodeId parent, std::span<const int32_t> tokens) const {
  const auto [begin, end] = by_hash_.equal_range(hash_of(parent, tokens));
  for (auto it = begin; it != end; ++it) {
    const Node& node = nodes_.at(it->second);
    if (node.parent == parent && std::equal(tokens.begin(), tokens.end(), node.tokens.begin()))
      return it->second;
  }
  return kRoot;
}

PrefixCache::NodeId PrefixCache::insert(NodeId parent, std::span<const int32_t> tokens) {
  const NodeId id = next_id_++;
  Node& node = nodes_[id];
  node.parent = parent;
  node.hash = hash_of(parent, tokens);
  node.tokens.assign(tokens.begin(), tokens.end());
  by_hash_.emplace(node.hash, id);
  if (!is_root(parent)) ++nodes_.at(parent).children;
  return id;
}

// A node is kept while it holds a block, while a sequence continues from it, and while it gives its children
// their meaning. Erasing one may make its parent useless.
void PrefixCache::erase_if_useless(NodeId id) {
  while (!is_root(id)) {
    const auto it = nodes_.find(id);
    const Node& node = it->second;
    if (node.global != kNoBlock || node.local != kNoBlock || node.children > 0 || node.pins > 0) return;
    const auto [begin, end] = by_hash_.equal_range(node.hash);
    by_hash_.erase(std::find_if(begin, end, [id](const auto& entry) { return entry.second == id; }));
    id = node.parent;
    nodes_.erase(it);
    if (!is_root(id)) --nodes_.at(id).children;
  }
}

void PrefixCache::evicted_global(int32_t block) {
  const NodeId id = global_owner_[size_t(block)];
  Node& node = nodes_.at(id);
  node.global = kNoBlock;
  // Without its global block a local one can never be resumed from. Nobody uses it: whoever holds a local
  // block of a node also holds its global one.
  if (node.local != kNoBlock) {
    local_.set_cached(node.local, false);
    node.local = kNoBlock;
  }
  erase_if_useless(id);
}

void PrefixCache::evicted_local(int32_t block) {
  const NodeId id = local_owner_[size_t(block)];
  nodes_.at(id).local = kNoBlock;
  erase_if_useless(id);
}

}  // namespace llama4rt
