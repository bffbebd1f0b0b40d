#include "runtime/store/block_key.h"

#include <algorithm>

#include "base/error.h"

namespace llama4rt {
namespace {

void append(std::string& out, const void* data, size_t size) {
  out.append(static_cast<const char*>(data), size);
}

}  // namespace

std::string block_text(std::span<const int32_t> keys, const PictureNames& pictures) {
  std::string out;
  out.reserve(keys.size() * 4);
  std::vector<int32_t> seen;  // keys of pictures in order of appearance
  for (const int32_t key : keys) {
    int32_t value = key;
    if (key < 0) {
      const auto it = std::find(seen.begin(), seen.end(), key);
      value = -1 - int32_t(it - seen.begin());
      if (it == seen.end()) seen.push_back(key);
    }
    append(out, &value, sizeof value);
  }
  for (const int32_t key : seen) {
    const auto it =
        std::find_if(pictures.begin(), pictures.end(), [key](const auto& name) { return name.first == key; });
    LLAMA4RT_CHECK(kInternal, it != pictures.end(), "a picture has no name");
    const auto size = uint32_t(it->second.size());
    append(out, &size, sizeof size);
    out += it->second;
  }
  return out;
}

BlockKey chained(const BlockKey& parent, const std::string& text) {
  Sha256 hash;
  hash.update(parent.data(), parent.size());
  hash.update(text.data(), text.size());
  return hash.digest();
}

void BlockChain::reach(std::span<const int32_t> keys, const PictureNames& pictures, int64_t blocks) {
  while (size() < blocks)
    keys_.push_back(
        chained(parent(size()), block_text(keys.subspan(keys_.size() * block_size_, block_size_), pictures)));
}

}  // namespace llama4rt
