// ImageEncoder: turns pictures into embedding rows, a few tiles at a time so that text goes on beside them,
// and keeps the results of recent pictures by digest: a picture that comes again is not encoded again. It
// knows no requests; whoever acquires an entry holds it until release.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "format/weight_source.h"
#include "model/vision.h"
#include "ops/device.h"
#include "runtime/runner/range_allocator.h"
#include "runtime/sequences/request.h"
#include "runtime/sequences/sequence.h"

namespace llama4rt {

struct ImageStats {
  int64_t encoded_tiles = 0;  // since the start
  int64_t reused = 0;         // pictures found encoded, or being encoded
  int64_t cached = 0, cached_bytes = 0;
};

class ImageEncoder {
 public:
  // One picture. Its rows are valid while somebody holds it.
  struct Entry {
    std::shared_ptr<const ImageInput> input;  // null once encoded
    std::string digest;
    int32_t cache_key = 0;  // negative, of this entry alone: an id is never used again
    int64_t num_tiles = 0;
    int64_t encoded_tiles = 0;
    Tensor embeddings;             // F32 [num_tiles * tokens_per_tile, H] in the device's memory
    std::optional<int64_t> place;  // in the arena, in bytes
    int64_t holders = 0;
    std::list<Entry*>::iterator idle;  // among those nobody holds, when holders == 0

    bool complete() const { return encoded_tiles == num_tiles; }
  };

  // config.vision is there. workspace_bytes: of the tower. `memory` in bytes bounds the rows of all entries
  // together; a single picture that needs more is let through when nobody holds any. On a device with memory
  // of its own, all of it is taken now. tiles_at_once: the most that go through the tower together.
  ImageEncoder(const WeightSource& source, Device& device, int64_t memory, int64_t tiles_at_once,
               int64_t workspace_bytes);
  ~ImageEncoder();
  ImageEncoder(const ImageEncoder&) = delete;
  ImageEncoder& operator=(const ImageEncoder&) = delete;

  // Null while the entries in use leave no room for it; with `force`, never null.
  Entry* acquire(const std::shared_ptr<const ImageInput>& input, bool force);
  void release(Entry* entry);
  // Runs the tower on at most max_tiles further tiles; returns how many.
  int64_t encode(Entry& entry, int64_t max_tiles);

  // The tower alone: F32 [num_tiles * tokens_per_tile, H] of tiles uint8 [num_tiles, S, S, 3].
  std::vector<float> encode_tiles(std::span<const uint8_t> tiles);

  int64_t max_tiles() const { return max_tiles_; }  // of one encode()
  int64_t workspace_bytes() const;
  ImageStats stats() const;

 private:
  int64_t bytes_of(const Entry& entry) const;
  bool make_room(int64_t bytes);
  void* allocate(Entry& entry);
  void free_rows(const Entry& entry);
  void drop(Entry* entry);

  Device& device_;
  const int64_t memory_;
  const int64_t tile_bytes_;  // uint8 pixels of a tile
  const int64_t tokens_per_tile_;
  const int64_t hidden_size_;  // H of the text model
  const int64_t max_tiles_;
  char* arena_ = nullptr;  // [memory_] on a device with memory of its own
  RangeAllocator ranges_;
  const VisionWeights weights_;
  VisionTower tower_;
  std::unordered_map<std::string, std::unique_ptr<Entry>> entries_;
  std::list<Entry*> idle_;  // nobody holds them; the longest unused first
  int64_t used_bytes_ = 0;
  int32_t next_key_ = -1;
  ImageStats stats_;
};

// Which positions of a prompt the pictures take: patch tokens, in order.
struct ImagePlaces {
  std::vector<ImageRun> runs;
  std::vector<int32_t> cache_keys;  // Sequence::cache_keys
};
ImagePlaces place_images(std::span<const int32_t> tokens, int64_t patch_token_id,
                         std::span<ImageEncoder::Entry* const> images);

}  // namespace llama4rt
