// AMX's tiles in plain memory: the instructions that x86/amx_linear.h uses, as Intel's manual defines them (palette 1,
// tiles of rows of 64 bytes). Included before that header, whose intrinsics become these.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>

#include "cpu/x86/intrinsics.h"

namespace llama4rt::test {

struct EmulatedTiles {
  uint8_t rows[8] = {};
  uint8_t tile[8][16][64] = {};

  // config: the 64 bytes of LDTILECFG; bytes 48.. are the rows of each tile
  void configure(const void* config) { std::memcpy(rows, static_cast<const uint8_t*>(config) + 48, 8); }
  void zero(int t) { std::memset(tile[t], 0, sizeof tile[t]); }
  void load(int t, const void* from, int64_t stride) {
    zero(t);
    for (int i = 0; i < rows[t]; ++i)
      std::memcpy(tile[t][i], static_cast<const uint8_t*>(from) + i * stride, 64);
  }
  void store(int t, void* to, int64_t stride) const {
    for (int i = 0; i < rows[t]; ++i) std::memcpy(static_cast<uint8_t*>(to) + i * stride, tile[t][i], 64);
  }
  // Each int32 of c adds the products of four bytes, from every row of b. First: int8_t or uint8_t, what a holds
  template <class First>
  void multiply(int c, int a, int b) {
    for (int m = 0; m < rows[c]; ++m)
      for (int n = 0; n < 16; ++n) {
        uint32_t sum = 0;
        std::memcpy(&sum, &tile[c][m][4 * n], 4);
        for (int k = 0; k < rows[b]; ++k)
          for (int i = 0; i < 4; ++i)
            sum += uint32_t(int32_t(First(tile[a][m][4 * k + i])) * int32_t(tile[b][k][4 * n + i]));
        std::memcpy(&tile[c][m][4 * n], &sum, 4);
      }
  }
};

inline thread_local EmulatedTiles emulated_tiles;

}  // namespace llama4rt::test

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbsud
#undef _tile_dpbuud
#define _tile_loadconfig(config) ::llama4rt::test::emulated_tiles.configure(config)
#define _tile_release() ::llama4rt::test::emulated_tiles.configure(std::array<uint8_t, 64>{}.data())
#define _tile_zero(t) ::llama4rt::test::emulated_tiles.zero(t)
#define _tile_loadd(t, from, stride) ::llama4rt::test::emulated_tiles.load(t, from, stride)
#define _tile_stored(t, to, stride) ::llama4rt::test::emulated_tiles.store(t, to, stride)
#define _tile_dpbsud(c, a, b) ::llama4rt::test::emulated_tiles.multiply<int8_t>(c, a, b)
#define _tile_dpbuud(c, a, b) ::llama4rt::test::emulated_tiles.multiply<uint8_t>(c, a, b)
