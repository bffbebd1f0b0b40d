#include "runtime/runner/kv_cache.h"

#include <algorithm>
#include <new>

#include "base/checked_math.h"
#include "base/error.h"

namespace llama4rt {
namespace {

// Bounds the bookkeeping when a tiny model meets a large budget: 64 million tokens at 16 per block.
constexpr int64_t kMaxBlocks = int64_t(1) << 22;

}  // namespace

KvCachePlan kv_cache_shape(const ModelConfig& config, const KvCacheOptions& options) {
  const int64_t size = options.block_size;
  LLAMA4RT_CHECK(kConfig, size >= 16 && size <= 1024 && size % 16 == 0, "block_size is ", size,
                 "; it must be a multiple of 16 in 16..1024");
  const int64_t local_layers = std::count(config.chunked_layers.begin(), config.chunked_layers.end(), true);
  const int64_t global_layers = config.num_hidden_layers - local_layers;
  const int64_t chunk = local_layers > 0 ? config.attention_chunk_size : 0;
  LLAMA4RT_CHECK(kConfig, chunk % size == 0, "block_size ", size, " does not divide attention_chunk_size ",
                 chunk, chunk % 16 == 0 ? "; use 16" : ", which must be a multiple of 16 for a paged cache");

  KvCachePlan plan;
  plan.block_size = options.block_size;
  plan.global_format = options.global_format;
  plan.local_format = options.local_format;
  plan.attention_chunk = chunk;
  const auto layer_bytes = [&](KvKind format) {
    return 2 * config.num_key_value_heads * size * kv_head_bytes(format, config.head_dim);
  };
  plan.global_block_bytes = global_layers * layer_bytes(plan.global_format);
  plan.local_block_bytes = local_layers * layer_bytes(plan.local_format);
  plan.spare_blocks = options.spare_blocks;
  return plan;
}

KvCachePlan plan_kv_cache(const ModelConfig& config, const KvCacheOptions& options) {
  KvCachePlan plan = kv_cache_shape(config, options);
  const int64_t size = plan.block_size, chunk = plan.attention_chunk;
  const int64_t local_layers = std::count(config.chunked_layers.begin(), config.chunked_layers.end(), true);
  const int64_t global_layers = config.num_hidden_layers - local_layers;
  const int64_t spare = plan.spare_blocks * (plan.global_block_bytes + plan.local_block_bytes);
  const int64_t budget = options.budget_bytes - spare;

  LLAMA4RT_CHECK(kConfig, options.max_model_len >= 0, "max_model_len is ", options.max_model_len,
                 "; it must be positive, or 0 to choose it");
  LLAMA4RT_CHECK(kConfig, options.max_model_len <= config.max_position_embeddings, "max_model_len is ",
                 options.max_model_len, ", but the model was made for ", config.max_position_embeddings,
                 " positions (max_position_embeddings)");
  const int64_t wanted = options.max_model_len > 0 ? options.max_model_len : config.max_position_embeddings;
  // What one sequence of the length asked for must find; when no length was asked for, of one token.
  const int64_t needed = std::max<int64_t>(options.max_model_len, 1);
  const int64_t global_needed = global_layers > 0 ? ceil_div(needed, size) : 0;
  const int64_t local_needed = local_layers > 0 ? ceil_div(std::min(chunk, needed), size) : 0;
  const int64_t bytes_needed =
      global_needed * plan.global_block_bytes + local_needed * plan.local_block_bytes + spare;
  LLAMA4RT_CHECK(kConfig, bytes_needed <= options.budget_bytes, "kv_cache_memory is ", options.budget_bytes,
                 " bytes; one sequence of ", needed, " tokens",
                 options.max_model_len > 0 ? " (max_model_len)" : "", " needs ", bytes_needed, " bytes");

  const int64_t even = budget / (plan.global_block_bytes + plan.local_block_bytes);
  if (local_layers > 0) {
    const int64_t useful = options.max_num_seqs * (ceil_div(std::min(chunk, wanted), size) + 1);
    const int64_t beside_global = (budget - global_needed * plan.global_block_bytes) / plan.local_block_bytes;
    plan.num_local_blocks =
        int32_t(std::max(local_needed, std::min({even, useful, beside_global, kMaxBlocks})));
  }
  if (global_layers > 0) {
    const int64_t rest = budget - plan.num_local_blocks * plan.local_block_bytes;
    plan.num_global_blocks = int32_t(std::min(rest / plan.global_block_bytes, kMaxBlocks));
  }

  // The longest sequence both groups hold. A local group that holds a whole chunk holds any length.
  int64_t longest = wanted;
  if (global_layers > 0) longest = std::min(longest, plan.num_global_blocks * size);
  if (local_layers > 0 && plan.num_local_blocks * size < chunk)
    longest = std::min(longest, plan.num_local_blocks * size);
  LLAMA4RT_CHECK(kConfig, longest >= needed, "max_model_len is ", needed, ", but a cache has at most ",
                 kMaxBlocks, " blocks of ", size, " tokens; use a larger block_size");
  plan.max_model_len = longest;
  return plan;
}

KvCache::KvCache(Device& device, const ModelConfig& config, const KvCachePlan& plan)
    : device_(device), local_(config.chunked_layers.begin(), config.chunked_layers.end()) {
  layers_.reserve(size_t(config.num_hidden_layers));
  try {
    for (int l = 0; l < config.num_hidden_layers; ++l) {
      KvLayer& layer = layers_.emplace_back();
      const bool local = config.chunked_layers[size_t(l)];
      layer.format = local ? plan.local_format : plan.global_format;
      layer.num_blocks = plan.spare_blocks + (local ? plan.num_local_blocks : plan.num_global_blocks);
      layer.block_size = plan.block_size;
      layer.num_kv_heads = config.num_key_value_heads;
      layer.head_dim = config.head_dim;
      layer.k = device.allocate(side_bytes(layer));
      layer.v = device.allocate(side_bytes(layer));
    }
  } catch (const std::bad_alloc&) {
    free_layers();
    throw Error(ErrorKind::kConfig,
                error_text("kv_cache_memory: the system refused ", plan.bytes(), " bytes; ask for less"));
  } catch (...) {
    free_layers();
    throw;
  }
}

KvCache::~KvCache() { free_layers(); }

void KvCache::zero() {
  for (const KvLayer& layer : layers_) {
    device_.zero(layer.k, side_bytes(layer));
    device_.zero(layer.v, side_bytes(layer));
  }
}

void KvCache::read_block(bool local, int32_t block, std::span<std::byte> out) const {
  for (size_t l = 0; l < layers_.size(); ++l) {
    if (local_[l] != local) continue;
    const auto bytes = size_t(layers_[l].block_bytes());
    for (const void* const side : {layers_[l].k, layers_[l].v}) {
      device_.copy_to_host(out.data(), static_cast<const std::byte*>(side) + size_t(block) * bytes, bytes);
      out = out.subspan(bytes);
    }
  }
}

void KvCache::write_block(bool local, int32_t block, std::span<const std::byte> in) {
  for (size_t l = 0; l < layers_.size(); ++l) {
    if (local_[l] != local) continue;
    const auto bytes = size_t(layers_[l].block_bytes());
    for (void* const side : {layers_[l].k, layers_[l].v}) {
      device_.copy_to_device(static_cast<std::byte*>(side) + size_t(block) * bytes, in.data(), bytes);
      in = in.subspan(bytes);
    }
  }
}

void KvCache::free_layers() {
  for (const KvLayer& layer : layers_) {
    if (layer.k) device_.deallocate(layer.k, side_bytes(layer));
    if (layer.v) device_.deallocate(layer.v, side_bytes(layer));
  }
  layers_.clear();
}

size_t KvCache::side_bytes(const KvLayer& layer) const {
  return size_t(layer.num_blocks) * size_t(layer.block_bytes());
}

}  // namespace llama4rt
