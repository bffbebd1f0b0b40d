// BlockKey: the name of a block of keys and values that holds on other days and in other processes. It is the SHA-256 of
// the name of the block before it and of what the block's own positions hold, so it names all tokens and pictures up to
// the block's end; the first block follows the identity of the model (StoreShape).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/sha256.h"

namespace llama4rt {

using BlockKey = Sha256Digest;

// Any eight bytes of a good hash are one.
struct BlockKeyHash {
  size_t operator()(const BlockKey& key) const {
    size_t value;
    std::memcpy(&value, key.data(), sizeof value);
    return value;
  }
};

// What stands for a picture in Sequence::cache_keys (a negative number of this process), and its digest.
using PictureNames = std::vector<std::pair<int32_t, std::string>>;

// What the positions of a block hold, as bytes: token ids, and for the patches of the block's j-th picture -1 - j; then
// the digests of these pictures. Equal texts mean equal tokens and pictures. `keys` are those of the block alone.
std::string block_text(std::span<const int32_t> keys, const PictureNames& pictures);
BlockKey chained(const BlockKey& parent, const std::string& text);

// The names of a sequence's leading blocks, made as they are asked for.
class BlockChain {
 public:
  BlockChain() = default;
  BlockChain(const BlockKey& root, int block_size) : root_(root), block_size_(size_t(block_size)) {}

  // Makes the names of the first `blocks` blocks; `keys` are those of the whole sequence.
  void reach(std::span<const int32_t> keys, const PictureNames& pictures, int64_t blocks);
  int64_t size() const { return int64_t(keys_.size()); }
  const BlockKey& key(int64_t block) const { return keys_[size_t(block)]; }
  const BlockKey& parent(int64_t block) const { return block == 0 ? root_ : keys_[size_t(block - 1)]; }

 private:
  BlockKey root_{};
  size_t block_size_ = 0;
  std::vector<BlockKey> keys_;
};

}  // namespace llama4rt
