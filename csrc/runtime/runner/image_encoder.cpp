#include "runtime/runner/image_encoder.h"

#include <algorithm>
#include <limits>
#include <span>

#include "base/error.h"
#include "runtime/runner/weight_placement.h"

namespace llama4rt {
ImageEncoder::ImageEncoder(const WeightSource& source, Device& device, int64_t memory, int64_t tiles,
                           int64_t workspace_bytes)
    : device_(device),
      memory_(memory),
      tile_bytes_(int64_t(source.config().vision->image_size) * source.config().vision->image_size * 3),
      tokens_per_tile_(source.config().vision->tokens_per_tile()),
      hidden_size_(source.config().hidden_size),
      max_tiles_(tiles),
      ranges_(memory),
      weights_(VisionWeights::load(source)),
      tower_(device, source.config(), weights_, max_tiles_, size_t(workspace_bytes)) {
  if (device.traits().has_own_memory && memory > 0)
    arena_ = static_cast<char*>(device.allocate(size_t(memory)));
}

ImageEncoder::~ImageEncoder() {
  for (const auto& [digest, entry] : entries_) free_rows(*entry);
  if (arena_) device_.deallocate(arena_, size_t(memory_));
}

// Rows of an entry: in the arena, where make_room() has found a place, else on their own.
void* ImageEncoder::allocate(Entry& entry) {
  if (arena_) entry.place = ranges_.take(bytes_of(entry));
  return entry.place ? arena_ + *entry.place : device_.allocate(size_t(bytes_of(entry)));
}

void ImageEncoder::free_rows(const Entry& entry) {
  if (entry.place)
    ranges_.give_back(*entry.place);
  else
    device_.deallocate(entry.embeddings.data, size_t(bytes_of(entry)));
}

ImageEncoder::Entry* ImageEncoder::acquire(const std::shared_ptr<const ImageInput>& input, bool force) {
  const int64_t num_tiles = int64_t(input->tiles.size()) / tile_bytes_;
  const auto known = entries_.find(input->digest);
  if (known != entries_.end()) {
    Entry& entry = *known->second;
    LLAMA4RT_CHECK(kRequest, entry.num_tiles == num_tiles, "two images of ", entry.num_tiles, " and ",
                   num_tiles, " tiles have the same digest; it must name the content");
    if (entry.holders++ == 0) idle_.erase(entry.idle);
    ++stats_.reused;
    return &entry;
  }
  auto entry = std::make_unique<Entry>();
  entry->input = input;
  entry->digest = input->digest;
  entry->num_tiles = num_tiles;
  const int64_t bytes = bytes_of(*entry);
  if (!make_room(bytes) && !force) return nullptr;
  LLAMA4RT_CHECK(kInternal, next_key_ > std::numeric_limits<int32_t>::min(),
                 "too many images for one engine");
  Entry* const raw = entry.get();
  entries_.emplace(entry->digest, std::move(entry));
  try {
    raw->embeddings = Tensor(allocate(*raw), DType::kF32, {num_tiles * tokens_per_tile_, hidden_size_});
  } catch (...) {
    entries_.erase(input->digest);
    throw;
  }
  raw->cache_key = next_key_--;
  raw->holders = 1;
  used_bytes_ += bytes;
  return raw;
}

void ImageEncoder::release(Entry* entry) {
  LLAMA4RT_ASSERT(entry->holders > 0);
  if (--entry->holders > 0) return;
  if (!entry->complete() || used_bytes_ > memory_) return drop(entry);
  entry->idle = idle_.insert(idle_.end(), entry);
}

int64_t ImageEncoder::encode(Entry& entry, int64_t max_tiles) {
  const int64_t first = entry.encoded_tiles;
  const int64_t count = std::min({max_tiles, max_tiles_, entry.num_tiles - first});
  if (count <= 0) return 0;
  const std::span<const uint8_t> tiles(entry.input->tiles);
  tower_.encode(entry.embeddings.rows(first * tokens_per_tile_, count * tokens_per_tile_),
                tiles.subspan(size_t(first * tile_bytes_), size_t(count * tile_bytes_)));
  entry.encoded_tiles += count;
  stats_.encoded_tiles += count;
  if (entry.complete()) entry.input.reset();
  return count;
}

std::vector<float> ImageEncoder::encode_tiles(std::span<const uint8_t> tiles) {
  LLAMA4RT_CHECK(kRequest, !tiles.empty() && int64_t(tiles.size()) % tile_bytes_ == 0, "tiles have ",
                 tiles.size(), " bytes; it must be one or more tiles of ", tile_bytes_);
  const int64_t num_tiles = int64_t(tiles.size()) / tile_bytes_;
  std::vector<float> out(size_t(num_tiles * tokens_per_tile_ * hidden_size_));
  const int64_t tile_values = tokens_per_tile_ * hidden_size_;
  const size_t bytes = size_t(std::min(num_tiles, max_tiles_) * tile_values) * sizeof(float);
  const auto free_memory = [&](void* p) { device_.deallocate(p, bytes); };
  const std::unique_ptr<void, decltype(free_memory)> rows(device_.allocate(bytes), free_memory);
  for (int64_t first = 0; first < num_tiles; first += max_tiles_) {
    const int64_t count = std::min(max_tiles_, num_tiles - first);
    tower_.encode(Tensor(rows.get(), DType::kF32, {count * tokens_per_tile_, hidden_size_}),
                  tiles.subspan(size_t(first * tile_bytes_), size_t(count * tile_bytes_)));
    device_.copy_to_host(out.data() + first * tile_values, rows.get(),
                         size_t(count * tile_values) * sizeof(float));
  }
  return out;
}

int64_t ImageEncoder::workspace_bytes() const { return int64_t(tower_.workspace().capacity()); }

ImageStats ImageEncoder::stats() const {
  ImageStats stats = stats_;
  stats.cached = int64_t(entries_.size());
  stats.cached_bytes = used_bytes_;
  return stats;
}

int64_t ImageEncoder::bytes_of(const Entry& entry) const {
  return placed_bytes(entry.num_tiles * tokens_per_tile_ * hidden_size_ * int64_t(sizeof(float)));
}

bool ImageEncoder::make_room(int64_t bytes) {
  const auto fits = [&] {
    if (used_bytes_ + bytes > memory_) return false;
    if (!arena_) return true;
    const std::optional<int64_t> place = ranges_.take(bytes);  // enough in all may still be in pieces
    if (place) ranges_.give_back(*place);
    return place.has_value();
  };
  while (!fits() && !idle_.empty()) {
    Entry* const oldest = idle_.front();
    idle_.pop_front();
    drop(oldest);
  }
  return fits();
}

void ImageEncoder::drop(Entry* entry) {
  free_rows(*entry);
  used_bytes_ -= bytes_of(*entry);
  entries_.erase(std::string(entry->digest));  // a copy: the entry's own string dies with it
}

ImagePlaces place_images(std::span<const int32_t> tokens, int64_t patch_token_id,
                         std::span<ImageEncoder::Entry* const> images) {
  ImagePlaces places;
  places.cache_keys.assign(tokens.begin(), tokens.end());
  size_t image = 0;
  int64_t row = 0;  // of the image
  const auto length = int64_t(tokens.size());
  for (int64_t p = 0; p < length;) {
    if (tokens[size_t(p)] != patch_token_id) {
      ++p;
      continue;
    }
    LLAMA4RT_ASSERT(image < images.size());
    const ImageEncoder::Entry& entry = *images[image];
    const int64_t rows = entry.embeddings.size(0);
    int64_t end = p;  // the run ends with its image at the latest
    for (; end < length && end - p < rows - row && tokens[size_t(end)] == patch_token_id; ++end)
      places.cache_keys[size_t(end)] = entry.cache_key;
    places.runs.push_back({p, entry.embeddings.rows(row, end - p)});
    row += end - p;
    p = end;
    if (row == rows) {
      ++image;
      row = 0;
    }
  }
  return places;
}

}  // namespace llama4rt
