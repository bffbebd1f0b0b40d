// A tiny Llama 4 that sees, and requests that meet every part of the runtime: for the tests of engines on a
// device.
#pragma once

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "model/tiny_engine.h"
#include "runtime/drive_engine.h"
#include "runtime/sequences/request.h"

namespace llama4rt::test {

inline constexpr int64_t kPatch = kTinyPatchToken;
inline constexpr int kSide = kTinySide;

inline TinyEngine vision_engine(Layout layout) {
  TinyEngine spec;
  spec.layout = layout;
  spec.config.vision = tiny_vision_config(1);
  return spec;
}

inline std::shared_ptr<const ImageInput> picture(uint32_t seed) {
  std::mt19937 random(seed);
  ImageInput image;
  image.digest = "picture " + std::to_string(seed);
  image.tiles.resize(size_t(kSide * kSide * 3));
  for (uint8_t& value : image.tiles) value = uint8_t(random());
  return std::make_shared<const ImageInput>(std::move(image));
}

inline std::vector<int64_t> text_prompt(std::mt19937& random, size_t length) {
  std::vector<int64_t> ids = random_prompt(random, length);
  for (int64_t& id : ids) id = std::min<int64_t>(id, 90);
  return ids;
}

// Text, the picture, text.
inline Request with_picture(std::mt19937& random, uint32_t seed, size_t before, size_t after,
                            int64_t max_tokens = 12) {
  std::vector<int64_t> prompt = text_prompt(random, before);
  prompt.insert(prompt.end(), 4, kPatch);
  for (const int64_t id : text_prompt(random, after)) prompt.push_back(id);
  Request r = greedy(prompt, max_tokens);
  r.images = {picture(seed)};
  return r;
}

}  // namespace llama4rt::test
