#include "runtime/engine/image_queue.h"

#include <memory>
#include <utility>

namespace llama4rt {

RequestState* ImageQueue::next_ready(int64_t& tiles) {
  if (waiting_.empty()) return nullptr;
  RequestState& state = *waiting_.front();
  if (!encode(state, tiles)) return nullptr;
  place(state);
  waiting_.pop_front();
  return &state;
}

// False when tiles or memory have run out.
bool ImageQueue::encode(RequestState& state, int64_t& tiles) {
  for (size_t i = 0; i < state.request.images.size(); ++i) {
    if (i == state.images.size()) {
      // A request that lacks memory waits until running ones give theirs back; without any it must go on.
      ImageEncoder::Entry* const entry = encoder_.acquire(state.request.images[i], holding_ == 0);
      if (!entry) return false;
      state.images.push_back(entry);
    }
    while (!state.images[i]->complete()) {
      if (tiles == 0) return false;
      tiles -= encoder_.encode(*state.images[i], tiles);
    }
  }
  return true;
}

// Says which positions of the sequences the pictures take.
void ImageQueue::place(RequestState& state) {
  ImagePlaces places = place_images(state.sequences[0]->tokens, patch_token_id_, state.images);
  const auto runs = std::make_shared<const std::vector<ImageRun>>(std::move(places.runs));
  for (auto& s : state.sequences) {
    s->images = runs;
    s->cache_keys = places.cache_keys;
  }
  state.request.images.clear();  // the pixels
  ++holding_;
}

void ImageQueue::release(RequestState& state) {
  if (state.scheduled && !state.images.empty()) --holding_;
  for (ImageEncoder::Entry* const entry : state.images) encoder_.release(entry);
  state.images.clear();
}

}  // namespace llama4rt
