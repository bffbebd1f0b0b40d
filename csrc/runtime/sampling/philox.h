// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", 2011): a random
// function of (key, counter) without state. A token's random number therefore depends on the request's seed
// and the token's place alone, not on the batch, the order of steps or preemption.
#pragma once

#include <array>
#include <cstdint>

namespace llama4rt {

constexpr std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t(0xD2511F53u) * counter[0];
    const uint64_t b = uint64_t(0xCD9E8D57u) * counter[2];
    counter = {uint32_t(b >> 32) ^ counter[1] ^ key[0], uint32_t(b), uint32_t(a >> 32) ^ counter[3] ^ key[1],
               uint32_t(a)};
    key = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};
  }
  return counter;
}

// Uniform in [0, 1) with 53 random bits.
constexpr double philox_uniform(uint64_t seed, uint32_t sequence_index, uint64_t position) {
  const auto r = philox4x32({uint32_t(position), uint32_t(position >> 32), sequence_index, 0},
                            {uint32_t(seed), uint32_t(seed >> 32)});
  return double((uint64_t(r[0]) << 32 | r[1]) >> 11) * 0x1p-53;
}

}  // namespace llama4rt
