// Rows in tiles: of one matrix, or of each expert of a stack, found on the device from where experts begin.
#pragma once

#include "cuda/ptx/warp.cuh"
#include "cuda/simt.h"

namespace llama4rt::cuda {

// At most `size` rows that are multiplied with the same matrix.
struct RowTile {
  int expert;
  int first_row;
  int num_rows;
};

// All lanes of a warp hold one together and call its functions together. An expert without rows has no tile.
class RowTiles {
 public:
  // offsets: [num_experts + 1] first row of each expert; null: one matrix with num_rows rows.
  LLAMA4RT_DEVICE RowTiles(const int32_t* offsets, int num_experts, int num_rows, int size)
      : offsets_(offsets), num_experts_(num_experts), num_rows_(num_rows), size_(size) {
    total_ = tiles_of(num_rows);
    if (!offsets) return;
    per_lane_ = (num_experts + kWarpSize - 1) / kWarpSize;
    const int lane = lane_index();
    mine_ = 0;
    for (int e = first_expert(); e < end_expert(); ++e) mine_ += tiles_of(offsets[e + 1] - offsets[e]);
    int sum = mine_;  // of this lane and those below
    for (int step = 1; step < kWarpSize; step *= 2) {
      const int below = int(ptx::shuffle(uint32_t(sum), lane < step ? lane : lane - step));
      if (lane >= step) sum += below;
    }
    before_ = sum - mine_;
    total_ = int(ptx::shuffle(uint32_t(sum), kWarpSize - 1));
  }

  LLAMA4RT_DEVICE int total() const { return total_; }

  // Tile `index` of total().
  LLAMA4RT_DEVICE RowTile at(int index) const {
    int expert = 0, tile = index;
    if (offsets_) {
      // One lane finds it and tells the others: expert in the high half, its tile in the low one.
      uint32_t found = 0;
      if (index >= before_ && index < before_ + mine_) {
        tile = index - before_;
        for (expert = first_expert();; ++expert) {
          const int tiles = tiles_of(offsets_[expert + 1] - offsets_[expert]);
          if (tile < tiles) break;
          tile -= tiles;
        }
        found = uint32_t(expert) << 16 | uint32_t(tile);
      }
      for (int step = 1; step < kWarpSize; step *= 2) found |= ptx::shuffle(found, lane_index() ^ step);
      expert = int(found >> 16);
      tile = int(found & 0xffffu);
    }
    const int begin = (offsets_ ? offsets_[expert] : 0) + tile * size_;
    const int left = (offsets_ ? offsets_[expert + 1] : num_rows_) - begin;
    return {expert, begin, left < size_ ? left : size_};
  }

 private:
  LLAMA4RT_DEVICE int tiles_of(int rows) const { return (rows + size_ - 1) / size_; }
  LLAMA4RT_DEVICE int first_expert() const { return lane_index() * per_lane_; }
  LLAMA4RT_DEVICE int end_expert() const {
    const int end = first_expert() + per_lane_;
    return end < num_experts_ ? end : num_experts_;
  }

  const int32_t* offsets_;
  int num_experts_, num_rows_, size_;
  int per_lane_ = 0;           // experts, consecutive
  int mine_ = 0, before_ = 0;  // tiles of this lane's experts, and of the experts before
  int total_;
};

}  // namespace llama4rt::cuda
