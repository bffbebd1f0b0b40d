// SHA-256 (FIPS 180-4). For names of content that other programs and other days rely on: nobody can make two contents of
// one name. xxhash.h finds damage, faster.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace llama4rt {

using Sha256Digest = std::array<uint8_t, 32>;

class Sha256 {
 public:
  void update(const void* data, size_t size);
  // Ends it: no update() may follow.
  Sha256Digest digest();

 private:
  void block(const uint8_t* p);

  uint32_t state_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  uint64_t total_ = 0;  // bytes
  uint8_t pending_[64] = {};
};

}  // namespace llama4rt
