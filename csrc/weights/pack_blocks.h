// What pack.cpp (values) and pack_codes.cpp (ready codes) share: which source rows make a stored block, and where codes
// go inside it.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>
#include <span>
#include <vector>

#include "weights/layout.h"
#include "weights/pack.h"

namespace llama4rt {

// The source rows that go into one stored block, by lane; -1: none.
struct BlockRows {
  int64_t block = 0;
  int64_t source[cpu16::kRows];
  int64_t first = std::numeric_limits<int64_t>::max();  // smallest and largest source row
  int64_t last = -1;
  int64_t count = 0;

  explicit BlockRows(int64_t index) : block(index) { std::fill(source, source + cpu16::kRows, int64_t(-1)); }
  void put(int64_t lane, int64_t row) {
    source[lane] = row;
    first = std::min(first, row);
    last = std::max(last, row);
    ++count;
  }
  bool covers(int64_t n) const { return count == std::min(cpu16::kRows, n - block * cpu16::kRows); }
};

// Groups source rows by the stored block they go to, in order of their first source row.
inline std::vector<BlockRows> group_by_block(std::span<const int64_t> rows, int64_t n) {
  std::vector<int64_t> slot(size_t(cpu16::num_blocks(n)), -1);
  std::vector<BlockRows> blocks;
  for (size_t i = 0; i < rows.size(); ++i) {
    const int64_t block = rows[i] / cpu16::kRows;
    if (slot[size_t(block)] < 0) {
      slot[size_t(block)] = int64_t(blocks.size());
      blocks.emplace_back(block);
    }
    blocks[size_t(slot[size_t(block)])].put(rows[i] % cpu16::kRows, int64_t(i));
  }
  return blocks;
}

template <WeightKind kind>
constexpr uint32_t word_of(const auto* values) {
  uint32_t word = 0;
  for (int j = 0; j < cpu16::values_per_word(kind); ++j)
    word |= uint32_t(values[j]) << cpu16::bit_offset(kind, j);
  return word;
}

// Writes one row of codes (or bf16 bits) into its lane of every line.  values: [lines * values per word].
template <WeightKind kind>
void put_row(PackedBlock& block, int64_t lane, const auto* values, int64_t lines) {
  unsigned char* out = block.data.data() + lane * 4;
  for (int64_t line = 0; line < lines; ++line) {
    const uint32_t word = word_of<kind>(values + line * cpu16::values_per_word(kind));
    std::memcpy(out + line * cpu16::kLineBytes, &word, sizeof word);
  }
}

// The same for Layout::kCudaTile, 16 columns at a time: columns 2p, 2p+1, 2p+8 and 2p+9 of a row are in the
// words of one lane, which rows r and r + 8 share (not in bf16). pack_test.cpp compares with the layout's own
// functions. values: [k], zeros up to a multiple of 16.
template <WeightKind kind>
void put_row_in_tiles(PackedBlock& block, int64_t row, const auto* values, int64_t k) {
  constexpr int kBits = weight_format(kind).bits;
  const int shift = row / 8 == 0 ? 0 : kBits;
  const auto replace = [shift](unsigned char* at, uint32_t mask, uint32_t bits) {
    uint32_t word;
    std::memcpy(&word, at, 4);
    word = (word & ~(mask << shift)) | bits << shift;
    std::memcpy(at, &word, 4);
  };
  constexpr int64_t kSteps = cuda_tile::tile_columns(kind) / 16;
  for (int64_t step = 0; step * 16 < k; ++step) {
    unsigned char* const lanes =
        block.data.data() + step / kSteps * cuda_tile::kTileBytes + row % 8 * (4 * 16);
    for (int64_t p = 0; p < 4; ++p) {
      const auto* v = values + step * 16 + 2 * p;
      unsigned char* const lane = lanes + p * 16;
      const uint32_t low = uint32_t(v[0]) | uint32_t(v[1]) << 16;
      const uint32_t high = uint32_t(v[8]) | uint32_t(v[9]) << 16;
      if constexpr (weight_format(kind).meaning == CodeMeaning::kTable) {
        const uint32_t columns =
            uint32_t(v[0]) | uint32_t(v[1]) << 8 | uint32_t(v[8]) << 16 | uint32_t(v[9]) << 24;
        replace(lane + step % kSteps * 4, 0x0f0f0f0f, columns);
      } else if constexpr (kBits == 4) {
        replace(lane + step % kSteps * 4, 0x0f0f0f0f, low | high << 8);
      } else if constexpr (kBits == 8) {
        replace(lane + step % kSteps * 8, 0x00ff00ff, low);
        replace(lane + step % kSteps * 8 + 4, 0x00ff00ff, high);
      } else {
        static_assert(kBits == 16);
        std::memcpy(lane + row / 8 * 4, &low, 4);
        std::memcpy(lane + row / 8 * 4 + 8, &high, 4);
      }
    }
  }
}

template <WeightKind kind>
void put_row(PackedBlock& block, const PackSpec& spec, int64_t lane, const auto* values, int64_t lines) {
  if (spec.layout == Layout::kCudaTile) return put_row_in_tiles<kind>(block, lane, values, spec.k);
  put_row<kind>(block, lane, values, lines);
}

// dtype: fp32 or bf16
inline void put_scale(PackedBlock& block, int64_t lane, int64_t group, float scale, DType dtype) {
  const int64_t index = group * cpu16::kRows + lane;
  unsigned char* const scales = block.side(Side::kScales).data();
  if (dtype == DType::kF32) {
    std::memcpy(scales + index * 4, &scale, 4);
  } else {
    const bf16 rounded = to_bf16(scale);
    std::memcpy(scales + index * 2, &rounded, 2);
  }
}

// Makes the buffers the right size, and fills them with what is stored when only some rows are written now.
inline void prepare(const PackSpec& spec, const BlockRows& rows, BlockStore& store, PackedBlock& block) {
  block.data.assign(size_t(spec.data_bytes_per_block()), 0);
  for (const SideFormat& format : kSides)
    block.side(format.side).assign(size_t(side_block_bytes(spec, format.side)), 0);
  if (!rows.covers(spec.n)) store.load(rows.block, block);
}

}  // namespace llama4rt
