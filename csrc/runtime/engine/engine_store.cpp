// The half of Engine that deals with a block store.
#include <climits>
#include <utility>

#include "base/error.h"
#include "ops/kv_formats.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/store_traffic.h"

namespace llama4rt {
namespace {

void add_part(Sha256& hash, std::string_view part) {
  const uint64_t size = part.size();  // so that no two lists of parts run together
  hash.update(&size, sizeof size);
  hash.update(part.data(), part.size());
}

// Of everything that decides the bits of a block. Another version of this program may add in another order.
BlockKey identity_of(const EngineFile& file, const Device& device, const KvCachePlan& plan,
                     const std::string& kernels) {
  Sha256 hash;
  add_part(hash, "llama4rt blocks 1");
  add_part(hash, LLAMA4RT_VERSION);
  add_part(hash, device.numerics());
  add_part(hash, kernels);
  add_part(hash, kv_kind_name(plan.global_format));
  add_part(hash, kv_kind_name(plan.local_format));
  add_part(hash, std::to_string(plan.block_size));
  add_part(hash, {reinterpret_cast<const char*>(file.header().data()), file.header().size()});
  return hash.digest();
}

std::string in_hex(const Sha256Digest& digest) {
  std::string hex;
  for (const uint8_t byte : digest)
    for (const int digit : {byte >> 4, byte & 15}) hex += "0123456789abcdef"[digit];
  return hex;
}

}  // namespace

void Engine::open_store(const EngineOptions& options) {
  LLAMA4RT_CHECK(kConfig, file_ != nullptr,
                 "kv_store is for engine files; random weights have no name to keep by");
  LLAMA4RT_CHECK(kConfig, options.prefix_cache,
                 "kv_store keeps blocks of the prefix cache; prefix_cache is off");
  LLAMA4RT_CHECK(kConfig, options.kv_store_bytes > 0, "kv_store_size is ", options.kv_store_bytes,
                 "; it must be a number of bytes");
  const KvCachePlan& kv = plan_.kv;
  StoreShape shape;
  shape.identity = identity_of(*file_, *device_, kv, options.cuda_prefill);
  shape.block_size = kv.block_size;
  shape.bytes[size_t(StoreGroup::kGlobal)] = kv.num_global_blocks > 0 ? kv.global_block_bytes : 0;
  shape.bytes[size_t(StoreGroup::kLocal)] = kv.num_local_blocks > 0 ? kv.local_block_bytes : 0;
  store_ = std::make_shared<KvStore>(StoreOptions{options.kv_store, options.kv_store_bytes, shape});
}

// Other processes see what was written as soon as it is written; here the segments are completed.
void Engine::close_store() {
  std::shared_ptr<KvStore> store;
  {
    const std::lock_guard lock(mutex_);
    store = std::move(store_);
  }
  if (!store) return;
  store->flush();
  std::vector<std::string> notes = store->take_notes();
  const std::lock_guard lock(mutex_);
  last_notes_ = std::move(notes);
}

std::shared_ptr<KvStore> Engine::store() const {
  const std::lock_guard lock(mutex_);
  return store_;
}

std::shared_ptr<KvStore> Engine::needed_store() const {
  check_usable();
  std::shared_ptr<KvStore> found = store();
  LLAMA4RT_CHECK(kConfig, found != nullptr, "this engine has no kv_store, or is closed");
  return found;
}

std::optional<StoreStats> Engine::store_stats() const {
  const std::shared_ptr<KvStore> found = store();
  if (!found) return std::nullopt;
  StoreStats stats = found->stats();
  const std::lock_guard lock(mutex_);
  stats.pending += stats_.outgoing_blocks;
  return stats;
}

std::vector<std::string> Engine::take_store_notes() {
  if (const std::shared_ptr<KvStore> found = store()) return found->take_notes();
  const std::lock_guard lock(mutex_);
  return std::exchange(last_notes_, {});
}

void Engine::flush_store() { needed_store()->flush(); }

std::string Engine::store_identity() const { return in_hex(needed_store()->shape().identity); }

std::string Engine::file_identity() const {
  LLAMA4RT_CHECK(kConfig, file_ != nullptr, "this engine has no file");
  Sha256 hash;
  hash.update(file_->header().data(), file_->header().size());
  return in_hex(hash.digest());
}

int64_t Engine::export_blocks(const std::vector<int64_t>& tokens,
                              const std::vector<std::pair<std::string, int64_t>>& pictures,
                              const std::string& path) {
  std::vector<int32_t> ids;
  for (const int64_t token : tokens) {
    LLAMA4RT_CHECK(kRequest, token >= 0 && token <= INT32_MAX, "token id ", token, " is none");
    ids.push_back(int32_t(token));
  }
  std::vector<std::pair<std::string, int64_t>> rows = pictures;
  const int64_t patch = config_.vision ? config_.vision->patch_token_id : -1;
  if (config_.vision)
    for (auto& [digest, tiles] : rows) tiles *= config_.vision->tokens_per_tile();
  const int64_t chunk = plan_.kv.attention_chunk;
  const std::shared_ptr<KvStore> store = needed_store();
  return store->export_blocks(names_of_blocks(ids, patch, rows, store->shape(), chunk), path);
}

int64_t Engine::adopt_blocks(const std::string& path) { return needed_store()->adopt_segment(path); }

}  // namespace llama4rt
