#include "base/xxhash.h"

#include <string>

#include "test.h"

namespace llama4rt::test {
namespace {

std::string pattern(size_t size) {
  std::string text(size, '\0');
  for (size_t i = 0; i < size; ++i) text[i] = char(i * 131 + 7);
  return text;
}

}  // namespace

// Computed with the xxhash package of PyPI.
TEST(known_hashes) {
  const struct {
    size_t size;
    uint64_t seed, hash;
  } kKnown[] = {
      {0, 0x0u, 0xef46db3751d8e999u},
      {0, 0x5u, 0x4be1d406981cfd3bu},
      {0, 0xffffffffffffffffu, 0x298f4c84b24f5380u},
      {1, 0x0u, 0xa96c7f0ce858bbb7u},
      {3, 0x0u, 0xbed43740ee6332bbu},
      {4, 0x0u, 0xfa212ae44b3bb23du},
      {7, 0x0u, 0x2744460dd675d2c0u},
      {8, 0x0u, 0x994b676b71ce94ddu},
      {31, 0x0u, 0x6711d55e306b5d8fu},
      {32, 0x0u, 0x07f7b8e3bc5d6e25u},
      {33, 0x0u, 0x09f85eeb4e1cbe9fu},
      {33, 0x5u, 0x7bf8210a6de9d5e5u},
      {33, 0xffffffffffffffffu, 0x303c4a232c3bd093u},
      {63, 0x0u, 0xb7c9968c066cb6a5u},
      {64, 0x0u, 0x50d4159a0411632eu},
      {100, 0x0u, 0x9ddada11d3dc2d8fu},
      {999, 0x0u, 0x209a7fcd40c009f2u},
      {1000, 0x0u, 0x0bf0bdbcc82eb373u},
      {1000, 0x5u, 0x8d84fc554d2918ebu},
      {1000, 0xffffffffffffffffu, 0x2ebd51d295f7ea0bu},
  };
  const std::string text = pattern(1000);
  for (const auto& known : kKnown) {
    SCOPE(known.size, " bytes, seed ", known.seed);
    CHECK_EQ(xxh64(text.data(), known.size, known.seed), known.hash);
  }
}

TEST(pieces_hash_like_the_whole) {
  const std::string text = pattern(500);
  for (size_t size = 0; size <= text.size(); size += 13) {
    for (size_t step = 1; step < 80; step += 6) {
      Xxh64 hash(9);
      for (size_t at = 0; at < size; at += step) hash.update(text.data() + at, std::min(step, size - at));
      CHECK_EQ(hash.digest(), xxh64(text.data(), size, 9));
    }
  }
}

}  // namespace llama4rt::test
