// ImageQueue: requests with pictures wait here, first come, first served, until their last tile is encoded.
// While others are running, one tile a step keeps those moving.
#pragma once

#include <cstdint>
#include <deque>

#include "runtime/engine/request_state.h"
#include "runtime/runner/image_encoder.h"

namespace llama4rt {

class ImageQueue {
 public:
  // patch_token_id: of the tokens that tiles take the places of.
  ImageQueue(ImageEncoder& encoder, int64_t patch_token_id)
      : encoder_(encoder), patch_token_id_(patch_token_id) {}

  bool empty() const { return waiting_.empty(); }
  const std::deque<RequestState*>& waiting() const { return waiting_; }  // oldest first
  void add(RequestState& state) { waiting_.push_back(&state); }
  void remove(const RequestState& state) { std::erase(waiting_, &state); }

  // Encodes tiles, few when others are running, for the oldest request. Returns it when it has all of its
  // pictures and places them in its sequences; null while tiles or memory have run out. Call again for the
  // next one. What it throws is the front request's: remove it.
  RequestState* next_ready(int64_t& tiles);
  int64_t tiles_of_step(bool others_run) const { return others_run ? 1 : encoder_.max_tiles(); }

  // The request has left the engine.
  void release(RequestState& state);

 private:
  bool encode(RequestState& state, int64_t& tiles);
  void place(RequestState& state);

  ImageEncoder& encoder_;
  const int64_t patch_token_id_;
  std::deque<RequestState*> waiting_;
  int64_t holding_ = 0;  // requests that hold all of their pictures
};

}  // namespace llama4rt
