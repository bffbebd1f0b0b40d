// VisionTower: from the pixels of picture tiles to rows of the decoder's embedding sequence, written once
// over Ops. Preparing tiles (decoding, resizing, cutting) is Python's business; which rows of a prompt
// the result replaces is the runtime's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "format/model_config.h"
#include "model/vision_weights.h"
#include "ops/device.h"
#include "ops/ops.h"
#include "ops/workspace.h"

namespace llama4rt {

class VisionTower {
 public:
  // Keeps references to the first three; config.vision must be there. workspace_bytes: what max_tiles tiles
  // at a time take, as measured (runtime/plan/measure_step.h).
  VisionTower(Device& device, const ModelConfig& config, const VisionWeights& weights, int64_t max_tiles,
              size_t workspace_bytes);

  // Features of n tiles, n <= max_tiles.
  // out: F32 [n * tokens_per_tile, H], tile by tile, row-major inside a tile.
  // tiles: [n, S, S, 3] (rows, columns, RGB) in host memory.
  // The result of a tile depends on its pixels alone, bit for bit, not on what else is in the call.
  void encode(Tensor out, std::span<const uint8_t> tiles);

  int64_t max_tiles() const { return max_tiles_; }
  const Workspace& workspace() const { return ws_; }

 private:
  void embed(Tensor x, std::span<const uint8_t> tiles);
  void attention(Tensor x, const VisionWeights::Layer& layer);
  void mlp(Tensor x, const VisionWeights::Layer& layer);
  void adapt(Tensor out, Tensor x);

  int64_t rows_per_tile() const { return cfg_.num_patches() + 1; }  // patches, then the class token

  Device& device_;
  Ops& ops_;
  const VisionConfig& cfg_;
  const VisionWeights& w_;
  int64_t max_tiles_;
  Workspace ws_;
  std::vector<float> positions_;  // [num_patches, Hv] positional embedding of the patches, on the host
  std::vector<float> class_row_;  // [Hv] the class token with its position
  Tensor rope_;                   // F32 [rows_per_tile, D / 2, 2] cos and sin
  Tensor shuffle_;  // I32 [max_tiles * num_patches] rows of the patches, the four of an output token together
};

}  // namespace llama4rt
