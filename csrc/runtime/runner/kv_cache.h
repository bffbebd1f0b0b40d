// KvCache: the memory of keys and values, per layer, and the plan that divides a byte budget between the two
// groups of layers. Which block belongs to whom is the scheduler's business.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "format/model_config.h"
#include "ops/device.h"
#include "ops/kv_formats.h"
#include "ops/op_types.h"

namespace llama4rt {

struct KvCacheOptions {
  int64_t budget_bytes = 0;
  int block_size = 16;  // P tokens
  KvKind global_format = KvKind::kBF16, local_format = KvKind::kBF16;
  int64_t max_model_len = 0;  // 0: as long as the model and the budget allow
  int64_t max_num_seqs = 1;
  // Of each layer group, beside the ones to be handed out: rows that pad a step write there.
  int32_t spare_blocks = 0;
};

struct KvCachePlan {
  int block_size = 0;
  KvKind global_format = KvKind::kBF16, local_format = KvKind::kBF16;
  int64_t attention_chunk = 0;    // 0: no chunked layer, no local group
  int32_t num_global_blocks = 0;  // 0: no global layer
  int32_t num_local_blocks = 0;
  int64_t global_block_bytes = 0;  // of all layers of the group
  int64_t local_block_bytes = 0;
  int32_t spare_blocks = 0;   // of each group; their numbers follow the others'
  int64_t max_model_len = 0;  // tokens one sequence may have

  int64_t bytes() const {
    return (num_global_blocks + spare_blocks) * global_block_bytes +
           (num_local_blocks + spare_blocks) * local_block_bytes;
  }
};

// What follows from the config alone: everything of the plan but the numbers of blocks and max_model_len.
// Throws kConfig for a block size that the model does not allow.
KvCachePlan kv_cache_shape(const ModelConfig& config, const KvCacheOptions& options);

// Both groups get the same number of blocks, but the local one no more than max_num_seqs attention chunks can
// use, and no more than a global group for one sequence of max_model_len leaves it; the rest is global. Throws kConfig
// with the numbers when such a sequence does not fit at all.
KvCachePlan plan_kv_cache(const ModelConfig& config, const KvCacheOptions& options);

class KvCache {
 public:
  // Reserves address space; the operating system backs pages when they are first written.
  KvCache(Device& device, const ModelConfig& config, const KvCachePlan& plan);
  ~KvCache();
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  std::span<const KvLayer> layers() const { return layers_; }  // [L]
  // Keys and values that nobody computed become numbers.
  void zero();
  // The bytes of a block of a layer group (KvCachePlan), layer by layer, keys before values: out of the device's memory
  // and into it. Both wait until they are copied.
  void read_block(bool local, int32_t block, std::span<std::byte> out) const;
  void write_block(bool local, int32_t block, std::span<const std::byte> in);

 private:
  void free_layers();
  size_t side_bytes(const KvLayer& layer) const;  // of k or of v

  Device& device_;
  const std::vector<bool> local_;  // [L]
  std::vector<KvLayer> layers_;
};

}  // namespace llama4rt
