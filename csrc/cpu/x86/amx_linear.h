// Linear ops of many rows with AMX tiles. An int16 activation is 256 * high + low, high a signed and low an
// unsigned byte; weights are unsigned bytes. Two exact int8 tile products per group, recombined as
// 256 * high + low in int32, give the same integers as dot_pairs, and everything after them is the same code:
// so the same bits.
//
// One step multiplies 16 rows of activations (the A tiles, high and low) with two row blocks (the B tiles):
// four sums of 16 x 16, each loaded tile used twice. B tiles come from the same lines as everywhere: a line's
// words masked to bytes are a B row. The bytes of an int4 word are k0 k4 k1 k5 (low nibbles) and k2 k6 k3 k7
// (high), those of an int8 word k0 k2 k1 k3; pack_tile_row puts the activation bytes in that order.
#pragma once

#include "cpu/generic/linear.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

inline constexpr int64_t kTileBytes = 1024;  // 16 rows of 64 bytes
inline constexpr int64_t kTileK = 64;        // bytes of a tile row: values of k

// Palette 1 of LDTILECFG: eight tiles of 64-byte rows.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

// Tiles 0..3 are sums and 4, 5 activations, of `rows` rows; 6 and 7 are weights.
inline void configure_tiles(int rows) {
  TileConfig config;
  for (int i = 0; i < 8; ++i) {
    config.row_bytes[i] = kTileK;
    config.rows[i] = uint8_t(i < 6 ? rows : 16);
  }
  _tile_loadconfig(&config);
}

// The intrinsics do not tell the compiler that tile loads read memory.
inline void memory_fence() { __asm__ volatile("" ::: "memory"); }

inline uint8_t* activation_tile(const QuantizedRows& q, int64_t tile, int64_t k, int64_t num_k) {
  return q.tiles + (tile * (num_k / kTileK) + k / kTileK) * 2 * kTileBytes;
}

// Row `row` of q as row tile_row of the tiles, high bytes and low bytes apart, k in the order of the B tiles.
inline void pack_tile_row(const QuantizedRows& q, int64_t row, int64_t tile_row, WeightKind kind) {
  // Bytes 2k and 2k + 1 of eight int16 are the low and high byte of value k.
  const __m128i int4_order = _mm_setr_epi8(0, 8, 2, 10, 4, 12, 6, 14, 1, 9, 3, 11, 5, 13, 7, 15);
  const __m128i int8_order = _mm_setr_epi8(0, 4, 2, 6, 8, 12, 10, 14, 1, 5, 3, 7, 9, 13, 11, 15);
  const __m128i order = weight_format(kind).bits == 4 ? int4_order : int8_order;
  const int16_t* values = q.values + row * q.stride;
  for (int64_t k = 0; k < q.stride; k += kTileK) {
    uint8_t* high = activation_tile(q, tile_row / 16, k, q.stride) + tile_row % 16 * kTileK;
    uint8_t* low = high + kTileBytes;
    for (int64_t i = 0; i < kTileK; i += 8) {
      const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values + k + i));
      const __m128i split = _mm_shuffle_epi8(x, order);
      _mm_storel_epi64(reinterpret_cast<__m128i*>(low + i), split);
      _mm_storeh_pd(reinterpret_cast<double*>(high + i), _mm_castsi128_pd(split));
    }
  }
}

// The B tiles of lines [0, num_lines), 64 values of k each: int8 lines are B rows as they are, int4 lines are
// two each, and table4 lines two that are looked up.   buffer: [num_lines * 2][64]
template <WeightKind kKind>
inline const uint8_t* weight_tiles(const IntBlock& block, const uint8_t* lines, int64_t num_lines,
                                   uint8_t* buffer) {
  if (weight_format(kKind).bits == 8) return lines;
  const IVec nibbles = IVec::set1(0x0f0f0f0f);
  IVec table{};
  if constexpr (weight_format(kKind).meaning == CodeMeaning::kTable) table = unsigned_table(block);
  const auto store = [&](IVec codes, uint8_t* row) {
    if constexpr (weight_format(kKind).meaning == CodeMeaning::kTable) codes = look_up(table, codes);
    codes.store(row);
  };
  for (int64_t i = 0; i < num_lines; ++i) {
    const IVec words = IVec::load(lines + i * cpu16::kLineBytes);
    store(words & nibbles, buffer + i * 2 * kTileK);
    store(shift_right<4>(words) & nibbles, buffer + (i * 2 + 1) * kTileK);
  }
  return buffer;
}

// Sums of one group: [high, low] of block 0, then of block 1.   sums: [4][16][16]
inline void multiply_group(int32_t* sums, const uint8_t* a, const uint8_t* b0, const uint8_t* b1,
                           int64_t num_tiles) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t i = 0; i < num_tiles; ++i) {
    _tile_loadd(4, a + 2 * i * kTileBytes, kTileK);
    _tile_loadd(6, b0 + i * kTileBytes, kTileK);
    _tile_dpbsud(0, 4, 6);
    _tile_loadd(5, a + (2 * i + 1) * kTileBytes, kTileK);
    _tile_dpbuud(1, 5, 6);
    _tile_loadd(7, b1 + i * kTileBytes, kTileK);
    _tile_dpbsud(2, 4, 7);
    _tile_dpbuud(3, 5, 7);
  }
  _tile_stored(0, sums, kTileK);
  _tile_stored(1, sums + 256, kTileK);
  _tile_stored(2, sums + 512, kTileK);
  _tile_stored(3, sums + 768, kTileK);
}

// Where a unit is in its walk: two neighbouring row blocks (or the last one twice).
struct BlockPair {
  int64_t first;
  int count;  // 1 or 2
  IntBlock blocks[2];
  BlockPair(const Weight& w, int64_t block, int64_t end)
      : first(block), count(end - block < 2 ? 1 : 2), blocks{{w, block}, {w, block + count - 1}} {}
};

// A panel of K: groups [group_begin, group_end) of a pair of row blocks.
struct Panel {
  int64_t group_begin, group_end;
  const uint8_t* b[2];      // B tiles of both blocks
  const uint8_t* ahead[2];  // lines wanted next: asked for while AMX is busy
};

// Adds one group to the results of up to 16 rows.   sums: [block][high, low][16][16]; y: [rows][2][16]
template <WeightKind kKind>
LLAMA4RT_INLINE void add_group_sums(float* y, const int32_t* sums, const BlockPair& pair,
                                    const QuantizedRows& q, int64_t first_row, int rows, int64_t group) {
  // Local copies: a vector store may alias anything, and the compiler would load these again for every row.
  const int64_t num_groups = q.groups;
  const ActivationGroups groups(q, first_row);
  const int count = pair.count;
  for (int j = 0; j < count; ++j) {
    const IntBlock block = pair.blocks[j];
    const Vec scale = block.scale(group);
    const int32_t* high = sums + j * 512;
    with_sides(block, [&]<bool kZeros, bool kOffsets>() LLAMA4RT_INLINE_LAMBDA {
      const IVec zero = kZeros ? IVec::load_u8(block.zeros + group * kLanes) : IVec::zero();
      const Vec offset = kOffsets ? block.offset(group) : Vec::zero();
      const int implied_zero = line_zero<kKind>(block.zero);
      for (int t = 0; t < rows; ++t) {
        const IVec dot = shift_left<8>(IVec::load(high + t * 16)) + IVec::load(high + 256 + t * 16);
        float* sum = y + (t * 2 + j) * kLanes;
        add_group<kZeros, kOffsets>(Vec::load(sum), dot, zero, implied_zero, scale, offset, groups,
                                    t * num_groups + group)
            .store(sum);
      }
    });
  }
}

// Adds a panel to the results of all rows of the unit. AMX works on one group while the vector
// units add the group before.
template <WeightKind kKind>
inline void multiply_panel(float* y, const LinearUnit& unit, const QuantizedRows& q, const BlockPair& pair,
                           const Panel& panel) {
  const Linear& linear = *unit.linear;
  const int64_t group_tiles = linear.weight.group_size / kTileK;
  const int64_t group_bytes = linear.weight.group_size / cpu16::values_per_word(kKind) * cpu16::kLineBytes;
  alignas(64) int32_t sums[2][4 * 256];
  for (int64_t row = unit.row_begin; row < unit.row_end; row += 16, y += 16 * 2 * kLanes) {
    const int rows = int(unit.row_end - row < 16 ? unit.row_end - row : 16);
    const int64_t first_row = linear.first_row + row;
    const uint8_t* a = activation_tile(q, linear.first_tile + row / 16, 0, linear.weight.k);
    for (int64_t g = panel.group_begin; g < panel.group_end; ++g) {
      const int64_t i = g - panel.group_begin, tile = i * group_tiles * kTileBytes;
      multiply_group(sums[g % 2], a + 2 * g * group_tiles * kTileBytes, panel.b[0] + tile, panel.b[1] + tile,
                     group_tiles);
      if (row == unit.row_begin)
        for (int64_t line = 0; line < group_bytes; line += cpu16::kLineBytes) {
          prefetch(panel.ahead[0] + i * group_bytes + line);
          prefetch(panel.ahead[1] + i * group_bytes + line);
        }
      if (i > 0) add_group_sums<kKind>(y, sums[(g - 1) % 2], pair, q, first_row, rows, g - 1);
    }
    add_group_sums<kKind>(y, sums[(panel.group_end - 1) % 2], pair, q, first_row, rows, panel.group_end - 1);
  }
}

inline void finish_pair(const float* y, const LinearUnit& unit, const BlockPair& pair) {
  const Linear& linear = *unit.linear;
  for (int64_t row = unit.row_begin; row < unit.row_end; ++row, y += 2 * kLanes) {
    if (linear.finish == Finish::kSwiGlu) {
      finish_gate_up(Vec::load(y), Vec::load(y + kLanes), linear, pair.first, row);
      continue;
    }
    for (int j = 0; j < pair.count; ++j) finish_block(Vec::load(y + j * kLanes), linear, pair.first + j, row);
  }
}

// K goes by in panels whose B tiles fit the first-level cache; all rows meet each of them.
inline constexpr int64_t kPanelK = 512;

template <WeightKind kKind>
inline void linear_tiled(const LinearUnit& unit, const QuantizedRows& q, std::byte* scratch) {
  const Weight& w = unit.linear->weight;
  auto* buffer = reinterpret_cast<uint8_t*>(scratch);
  auto* y = reinterpret_cast<float*>(scratch + 2 * 16 * kPanelK);
  const int64_t num_rows = unit.row_end - unit.row_begin;
  const int64_t group_lines = w.group_size / cpu16::values_per_word(kKind);
  const int64_t group_bytes = group_lines * cpu16::kLineBytes, panel_groups = kPanelK / w.group_size;
  configure_tiles(int(num_rows < 16 ? num_rows : 16));
  for (int64_t block = unit.block_begin; block < unit.block_end; block += 2) {
    const BlockPair pair(w, block, unit.block_end);
    std::memset(y, 0, size_t(num_rows) * 2 * kLanes * sizeof(float));
    for (int64_t g = 0; g < q.groups; g += panel_groups) {
      const int64_t end = g + panel_groups < q.groups ? g + panel_groups : q.groups;
      Panel panel{g, end, {}, {}};
      for (int j = 0; j < 2; ++j) {
        const uint8_t* lines = pair.blocks[j].lines;
        panel.b[j] = weight_tiles<kKind>(pair.blocks[j], lines + g * group_bytes, (end - g) * group_lines,
                                         buffer + j * 16 * kPanelK);
        panel.ahead[j] =
            end < q.groups ? lines + end * group_bytes : lines + 2 * cpu16::block_bytes(kKind, w.k);
      }
      memory_fence();
      multiply_panel<kKind>(y, unit, q, pair, panel);
    }
    finish_pair(y, unit, pair);
  }
  _tile_release();
}

inline void linear_unit_with_tiles(const LinearUnit& unit, const QuantizedRows& q, std::byte* scratch) {
  const Linear& linear = *unit.linear;
  if (linear.first_tile < 0) return linear_unit(unit, q, scratch);
  with_weight_kind(linear.weight.kind, [&]<WeightKind kKind>() {  // tiles_fit() lets in integers alone
    if constexpr (weight_format(kKind).meaning == CodeMeaning::kInteger ||
                  weight_format(kKind).meaning == CodeMeaning::kTable)
      linear_tiled<kKind>(unit, q, scratch);
  });
}

inline int64_t tile_scratch_bytes(int64_t rows, int64_t groups) {
  const int64_t tiled = 2 * 16 * kPanelK + (rows + 16) * 2 * kLanes * int64_t(sizeof(float));
  const int64_t untiled = linear_scratch_bytes(rows, groups);
  return tiled > untiled ? tiled : untiled;
}

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
