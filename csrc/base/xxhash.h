// XXH64, the 64-bit hash of the xxHash family, written from its public specification (all arithmetic modulo
// 2^64, input read as little-endian). It finds damage; it is no signature: anyone who can change a file can
// change its hash.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace llama4rt {

class Xxh64 {
 public:
  explicit Xxh64(uint64_t seed = 0)
      : seed_(seed), lanes_{seed + kPrime1 + kPrime2, seed + kPrime2, seed, seed - kPrime1} {}

  void update(const void* data, size_t size) {
    const auto* p = static_cast<const unsigned char*>(data);
    total_ += size;
    if (pending_size_ > 0) {
      const size_t take = std::min(size, kStripe - pending_size_);
      if (take > 0) std::memcpy(pending_ + pending_size_, p, take);
      pending_size_ += take;
      p += take;
      size -= take;
      if (pending_size_ < kStripe) return;
      stripes(pending_, 1);
      pending_size_ = 0;
    }
    const size_t whole = size / kStripe;
    stripes(p, whole);
    p += whole * kStripe;
    pending_size_ = size - whole * kStripe;
    if (pending_size_ > 0) std::memcpy(pending_, p, pending_size_);
  }

  uint64_t digest() const {
    uint64_t hash = seed_ + kPrime5;
    if (total_ >= kStripe) {
      hash = std::rotl(lanes_[0], 1) + std::rotl(lanes_[1], 7) + std::rotl(lanes_[2], 12) +
             std::rotl(lanes_[3], 18);
      for (const uint64_t lane : lanes_) hash = (hash ^ round(0, lane)) * kPrime1 + kPrime4;
    }
    hash += total_;
    const unsigned char* p = pending_;
    size_t left = pending_size_;
    for (; left >= 8; p += 8, left -= 8)
      hash = std::rotl(hash ^ round(0, read<uint64_t>(p)), 27) * kPrime1 + kPrime4;
    if (left >= 4) {
      hash = std::rotl(hash ^ (read<uint32_t>(p) * kPrime1), 23) * kPrime2 + kPrime3;
      p += 4;
      left -= 4;
    }
    for (; left > 0; ++p, --left) hash = std::rotl(hash ^ (*p * kPrime5), 11) * kPrime1;
    hash = (hash ^ (hash >> 33)) * kPrime2;
    hash = (hash ^ (hash >> 29)) * kPrime3;
    return hash ^ (hash >> 32);
  }

 private:
  static constexpr size_t kStripe = 32;
  static constexpr uint64_t kPrime1 = 0x9E3779B185EBCA87u;
  static constexpr uint64_t kPrime2 = 0xC2B2AE3D27D4EB4Fu;
  static constexpr uint64_t kPrime3 = 0x165667B19E3779F9u;
  static constexpr uint64_t kPrime4 = 0x85EBCA77C2B2AE63u;
  static constexpr uint64_t kPrime5 = 0x27D4EB2F165667C5u;

  template <class T>
  static T read(const unsigned char* p) {
    static_assert(std::endian::native == std::endian::little);
    T value;
    std::memcpy(&value, p, sizeof value);
    return value;
  }
  static uint64_t round(uint64_t lane, uint64_t input) {
    return std::rotl(lane + input * kPrime2, 31) * kPrime1;
  }
  void stripes(const unsigned char* p, size_t count) {
    uint64_t a = lanes_[0], b = lanes_[1], c = lanes_[2], d = lanes_[3];
    for (; count > 0; --count, p += kStripe) {
      a = round(a, read<uint64_t>(p));
      b = round(b, read<uint64_t>(p + 8));
      c = round(c, read<uint64_t>(p + 16));
      d = round(d, read<uint64_t>(p + 24));
    }
    lanes_[0] = a;
    lanes_[1] = b;
    lanes_[2] = c;
    lanes_[3] = d;
  }

  uint64_t seed_;
  uint64_t lanes_[4];
  uint64_t total_ = 0;
  unsigned char pending_[kStripe] = {};
  size_t pending_size_ = 0;
};

inline uint64_t xxh64(const void* data, size_t size, uint64_t seed = 0) {
  Xxh64 hash(seed);
  hash.update(data, size);
  return hash.digest();
}

}  // namespace llama4rt
