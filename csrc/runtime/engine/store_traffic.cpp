#include "runtime/engine/store_traffic.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "model/adapter.h"

namespace llama4rt {
namespace {

// Beyond so many blocks that wait for a slow disk, the oldest are not kept.
constexpr size_t kMaxOutgoing = size_t(1) << 18;

PictureNames picture_names(const RequestState& state) {
  PictureNames names;
  for (const ImageEncoder::Entry* const entry : state.images)
    names.emplace_back(entry->cache_key, entry->digest);
  return names;
}

}  // namespace

StoreTraffic::StoreTraffic(KvStore& store, Scheduler& scheduler, KvCache& cache, const KvCachePlan& plan)
    : store_(store),
      scheduler_(scheduler),
      cache_(cache),
      block_size_(plan.block_size),
      attention_chunk_(plan.attention_chunk) {
  scheduler_.on_known_block = [this](Sequence& s, int64_t block, PrefixCache::NodeId node) {
    on_known_block(s, block, node);
  };
}

StoreTraffic::~StoreTraffic() {
  for (Incoming& incoming : incoming_) end(incoming);
  for (const auto& [state, tail] : placed_) scheduler_.unpin(tail);
  scheduler_.on_known_block = nullptr;
}

// What the first block of a text follows: the model, changed by the request's adapter.
BlockKey StoreTraffic::chain_root(const Sequence& s) const {
  const BlockKey& model = store_.shape().identity;
  if (!s.adapter) return model;
  const Sha256Digest& digest = s.adapter->digest();
  return chained(model, "adapter " + std::string(digest.begin(), digest.end()));
}

// --- inward

bool StoreTraffic::begin(RequestState& state) {
  SequenceState& s = *state.sequences.front();
  if (!s.use_prefix_cache || s.is_finished()) return false;
  const int64_t limit = std::min(s.length() - 1, s.max_cached_tokens) / block_size_;
  if (limit <= 0) return false;
  const std::vector<int32_t>& keys = s.keys();
  s.chain = BlockChain(chain_root(s), int(block_size_));
  s.chain.reach(keys, picture_names(state), limit);
  const std::vector<PrefixCache::Known> known =
      scheduler_.prefix_cache().known(std::span(keys).first(size_t(limit * block_size_)), s.cache_root);
  const auto in_memory = [&](int64_t i, StoreGroup group) {
    return i < int64_t(known.size()) &&
           (group == StoreGroup::kGlobal ? known[size_t(i)].global : known[size_t(i)].local);
  };
  // Blocks of the longest prefix that can be resumed, from memory alone and with the store. PrefixCache has the rule.
  int64_t from_memory = 0, longest = 0, local_run = 0, local_in_memory = 0;
  bool all_in_memory = true;
  int64_t room = scheduler_.global_blocks().num_available();
  for (int64_t i = 0; i < limit; ++i) {
    const BlockKey& key = s.chain.key(i);
    if (has_group(StoreGroup::kGlobal) && !in_memory(i, StoreGroup::kGlobal)) {
      all_in_memory = false;
      if (room-- <= 0 || !store_.has(key, StoreGroup::kGlobal)) break;
    } else if (i >= int64_t(known.size())) {
      all_in_memory = false;
      if (!store_.has(key, StoreGroup::kLocal))
        break;  // without global layers: nobody has computed this prefix
    }
    const bool local = in_memory(i, StoreGroup::kLocal);
    local_in_memory = local ? local_in_memory + 1 : 0;
    local_run = local || store_.has(key, StoreGroup::kLocal) ? local_run + 1 : 0;
    const int64_t into_chunk =
        attention_chunk_ == 0 ? 0 : (i + 1) * block_size_ % attention_chunk_ / block_size_;
    if (local_run >= into_chunk) longest = i + 1;
    if (all_in_memory && local_in_memory >= into_chunk) from_memory = i + 1;
  }
  if (longest <= from_memory) return false;

  Incoming incoming{.state = &state, .reading = nullptr, .blocks = {}, .payloads = {}};
  std::vector<BlockName> wanted;
  const int64_t local_from =
      attention_chunk_ == 0 ? longest : longest - longest * block_size_ % attention_chunk_ / block_size_;
  const PictureNames pictures = picture_names(state);
  for (int64_t i = 0; i < longest; ++i) {
    Incoming::Block block;
    block.global = has_group(StoreGroup::kGlobal) && !in_memory(i, StoreGroup::kGlobal);
    block.local = i >= local_from && !in_memory(i, StoreGroup::kLocal);
    for (const StoreGroup group : {StoreGroup::kGlobal, StoreGroup::kLocal}) {
      if (!(group == StoreGroup::kGlobal ? block.global : block.local)) continue;
      const auto text = std::span(keys).subspan(size_t(i * block_size_), size_t(block_size_));
      wanted.push_back({s.chain.key(i), s.chain.parent(i), block_text(text, pictures), group});
    }
    incoming.blocks.push_back(block);
  }
  incoming.tail = s.cache_root;
  incoming.reading = store_.read(std::move(wanted));
  incoming_.push_back(std::move(incoming));
  return true;
}

// False: its next block has not been read yet.
bool StoreTraffic::place(Incoming& incoming) {
  const SequenceState& s = *incoming.state->sequences.front();
  for (; incoming.next < incoming.blocks.size(); ++incoming.next) {
    const Incoming::Block block = incoming.blocks[incoming.next];
    for (const size_t needed = size_t(block.global) + size_t(block.local);
         incoming.payloads.size() < needed;) {
      auto payload = store_.take(*incoming.reading);
      if (!payload) return store_.ended(*incoming.reading);  // the rest is computed
      incoming.payloads.push_back(std::move(*payload));
    }
    const auto keys = std::span(s.keys()).subspan(incoming.next * size_t(block_size_), size_t(block_size_));
    const PrefixCache::NodeId node = scheduler_.restore_block(
        incoming.tail, keys, block.global, block.local, [&](int32_t global, int32_t local) {
          if (block.global) cache_.write_block(false, global, incoming.payloads.front());
          if (block.local) cache_.write_block(true, local, incoming.payloads.back());
        });
    if (node == PrefixCache::kRoot) return true;
    incoming.tail = node;
    incoming.payloads.clear();
  }
  return true;
}

std::vector<RequestState*> StoreTraffic::take_ready() {
  std::vector<RequestState*> ready;
  for (auto it = incoming_.begin(); it != incoming_.end();) {
    if (!place(*it)) {
      ++it;
      continue;
    }
    placed_.emplace_back(it->state, std::exchange(it->tail, PrefixCache::kRoot));
    end(*it);
    ready.push_back(it->state);
    it = incoming_.erase(it);
  }
  return ready;
}

void StoreTraffic::forget(const RequestState& state) {
  for (const auto& [other, tail] : placed_)
    if (other == &state) scheduler_.unpin(tail);
  std::erase_if(placed_, [&](const auto& entry) { return entry.first == &state; });
  for (auto it = incoming_.begin(); it != incoming_.end();) {
    if (it->state != &state) {
      ++it;
      continue;
    }
    end(*it);
    it = incoming_.erase(it);
  }
}

void StoreTraffic::end(Incoming& incoming) {
  store_.cancel(*incoming.reading);
  scheduler_.unpin(std::exchange(incoming.tail, PrefixCache::kRoot));
}

int64_t StoreTraffic::num_waiting() const {
  int64_t waiting = 0;
  for (const Incoming& incoming : incoming_) waiting += incoming.state->live;
  return waiting;
}

// --- outward

void StoreTraffic::on_known_block(Sequence& sequence, int64_t block, PrefixCache::NodeId node) {
  auto& s = static_cast<SequenceState&>(sequence);
  if (s.chain.size() <= block) {
    if (s.chain.size() == 0) s.chain = BlockChain(chain_root(s), int(block_size_));
    s.chain.reach(s.keys(), picture_names(*s.request), block + 1);
  }
  const BlockKey& key = s.chain.key(block);
  const auto lacks = [&](StoreGroup group) {
    return has_group(group) && !store_.has(key, group, /*or_queued=*/true);
  };
  if (!lacks(StoreGroup::kGlobal)) store_.touch({&key, 1});
  if (!lacks(StoreGroup::kGlobal) && !lacks(StoreGroup::kLocal)) return;
  const auto keys = std::span(s.keys()).subspan(size_t(block * block_size_), size_t(block_size_));
  outgoing_.push_back(
      {{key, s.chain.parent(block), block_text(keys, picture_names(*s.request)), StoreGroup::kGlobal}, node});
  if (outgoing_.size() > kMaxOutgoing) outgoing_.pop_front();
}

void StoreTraffic::send() {
  while (!outgoing_.empty() && store_.has_room()) {
    Outgoing& out = outgoing_.front();
    const auto [global, local] = scheduler_.prefix_cache().blocks_of(out.node);
    for (const StoreGroup group : {StoreGroup::kGlobal, StoreGroup::kLocal}) {
      const int32_t block = group == StoreGroup::kGlobal ? global : local;
      if (!has_group(group) || block == PrefixCache::kNoBlock) continue;  // evicted meanwhile
      if (store_.has(out.name.key, group, /*or_queued=*/true)) continue;
      std::vector<std::byte> payload(size_t(store_.shape().bytes_of(group)));
      cache_.read_block(group == StoreGroup::kLocal, block, payload);
      BlockName name = out.name;
      name.group = group;
      store_.put(std::move(name), std::move(payload));
    }
    outgoing_.pop_front();
  }
}

void StoreTraffic::send_all() {
  for (send(); !outgoing_.empty(); send()) store_.wait_for_room(std::chrono::milliseconds(100));
}

void StoreTraffic::wait(std::chrono::milliseconds most) const {
  if (!incoming_.empty()) {
    std::vector<std::shared_ptr<KvStore::Reading>> readings;
    for (const Incoming& incoming : incoming_) readings.push_back(incoming.reading);
    store_.wait_for(readings, most);
  } else {
    store_.wait_for_room(most);
  }
}

std::vector<BlockName> names_of_blocks(std::span<const int32_t> tokens, int64_t patch_token_id,
                                       std::span<const std::pair<std::string, int64_t>> pictures,
                                       const StoreShape& shape, int64_t attention_chunk) {
  std::vector<int32_t> keys(tokens.begin(), tokens.end());
  PictureNames names;
  size_t picture = 0;
  int64_t row = 0;  // of the picture
  for (int32_t& key : keys) {
    if (picture == pictures.size() || key != patch_token_id) continue;
    const std::string& digest = pictures[picture].first;
    auto it =
        std::find_if(names.begin(), names.end(), [&](const auto& name) { return name.second == digest; });
    if (it == names.end()) it = names.insert(it, {-1 - int32_t(names.size()), digest});
    key = it->first;
    if (++row < pictures[picture].second) continue;
    ++picture;
    row = 0;
  }
  const int64_t size = shape.block_size;
  const int64_t blocks = int64_t(keys.size()) / size;
  // Of the attention chunk that holds the last token.
  const int64_t last = std::max<int64_t>(int64_t(keys.size()) - 1, 0);
  const int64_t local_from = attention_chunk == 0 ? blocks : (last - last % attention_chunk) / size;
  BlockChain chain(shape.identity, shape.block_size);
  chain.reach(keys, names, blocks);
  std::vector<BlockName> out;
  for (int64_t i = 0; i < blocks; ++i) {
    const std::string text = block_text(std::span(keys).subspan(size_t(i * size), size_t(size)), names);
    for (const StoreGroup group : {StoreGroup::kGlobal, StoreGroup::kLocal}) {
      if (shape.bytes_of(group) == 0 || (group == StoreGroup::kLocal && i < local_from)) continue;
      out.push_back({chain.key(i), chain.parent(i), text, group});
    }
  }
  return out;
}

}  // namespace llama4rt
