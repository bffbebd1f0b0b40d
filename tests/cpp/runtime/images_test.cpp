// Requests with pictures: their tiles take the places of the prompt's patch tokens, whatever the batch, the
// chunks, the memory and the caches do; nothing of a picture outlives its use beyond the limit.
#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "model/tiny_engine.h"
#include "runtime/drive_engine.h"
#include "runtime/engine/engine.h"
#include "runtime/runner/image_encoder.h"
#include "test.h"

namespace llama4rt {
namespace {

using namespace test;

constexpr int64_t kPatch = kTinyPatchToken;
constexpr int kSide = kTinySide;
constexpr int64_t kTileBytes = kSide * kSide * 3;
constexpr int64_t kTokens = 4;                   // of a tile: 4 x 4 patches of 4 pixels, four to a token
constexpr int64_t kRowBytes = kTokens * 64 * 4;  // embeddings of a tile

TinyEngine vision_engine() {
  TinyEngine spec;
  spec.config.vision = tiny_vision_config(2);
  return spec;
}

std::shared_ptr<const ImageInput> picture(uint32_t seed, int64_t num_tiles) {
  std::mt19937 random(seed);
  ImageInput image;
  image.digest = "picture " + std::to_string(seed) + " of " + std::to_string(num_tiles);
  image.tiles.resize(size_t(num_tiles * kTileBytes));
  for (uint8_t& value : image.tiles) value = uint8_t(random());
  return std::make_shared<const ImageInput>(std::move(image));
}

// Text, then each picture's tiles with a separator (92) between them, then text.
Request with_pictures(std::vector<std::shared_ptr<const ImageInput>> images, size_t before, size_t after,
                      uint32_t seed = 5) {
  std::mt19937 random(seed);
  std::vector<int64_t> prompt = random_prompt(random, before);
  for (int64_t& id : prompt) id = std::min<int64_t>(id, 90);
  for (const auto& image : images) {
    for (size_t tile = 0; tile < image->tiles.size() / kTileBytes; ++tile) {
      prompt.push_back(92);
      prompt.insert(prompt.end(), size_t(kTokens), kPatch);
    }
    prompt.push_back(10);
  }
  for (int64_t id : random_prompt(random, after)) prompt.push_back(std::min<int64_t>(id, 90));
  Request r = greedy(prompt, 40);
  r.images = std::move(images);
  return r;
}

std::vector<Request> picture_requests() {
  std::vector<Request> requests = {
      with_pictures({picture(1, 1)}, 3, 5),
      with_pictures({picture(2, 5)}, 40, 20),  // crosses chunks and blocks
      with_pictures({picture(1, 1), picture(3, 2), picture(1, 1)}, 60, 1),
      with_pictures({}, 30, 0),
      with_pictures({picture(4, 17)}, 1, 30),
  };
  requests[1].n = 3;
  requests[1].sampling.temperature = 0.8;
  requests[1].seed = 11;
  return requests;
}

TEST(gives_the_same_tokens_in_every_circumstance) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e", vision_engine());
  const std::vector<Request> requests = picture_requests();
  std::vector<std::vector<int32_t>> expected;
  for (const Request& r : requests) {
    EngineOptions o = small_options();
    o.prefix_cache = false;
    Engine engine(dir / "m.l4e", o);
    for (auto& tokens : tokens_of(run_all(engine, {r}))) expected.push_back(tokens);
  }
  for (const auto& tokens : expected) CHECK_EQ(tokens.size(), size_t(40));

  const auto check = [&](const char* name, auto change) {
    SCOPE(name);
    EngineOptions o = small_options();
    change(o);
    Engine engine(dir / "m.l4e", o);
    CHECK(tokens_of(run_all(engine, requests)) == expected);
    CHECK(tokens_of(run_all(engine, requests)) == expected);  // with warm caches
    if (o.image_cache_bytes > 0) CHECK(engine.stats().images.cached_bytes <= o.image_cache_bytes);
    if (std::string(name) == "preemption") CHECK(engine.stats().scheduler.preemptions > 0);
  };
  check("batched", [](EngineOptions&) {});
  check("without prefix cache", [](EngineOptions& o) { o.prefix_cache = false; });
  check("one thread", [](EngineOptions& o) { o.num_threads = 1; });
  for (int64_t tokens : {1, 3, 7, 33})  // chunks end inside pictures and tiles
    check("small chunks", [tokens](EngineOptions& o) { o.max_batched_tokens = tokens; });
  check("preemption", [](EngineOptions& o) {
    o.kv_cache_bytes = 12 * kTinyBlockBytes;
    o.prefix_cache = false;
  });
  check("room for one tile", [](EngineOptions& o) { o.image_cache_bytes = kRowBytes; });
  check("room for five tiles", [](EngineOptions& o) { o.image_cache_bytes = 5 * kRowBytes; });
}

std::vector<float> score(Engine& engine, Request r) {
  r.return_logits = true;
  const Outputs outputs = run_all(engine, {r});
  CHECK_EQ(outputs.begin()->second.error, std::string());
  return outputs.begin()->second.logits;
}

TEST(a_picture_changes_what_follows_it_and_nothing_before) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e", vision_engine());
  Engine engine(dir / "m.l4e", small_options());
  const size_t before = 20;
  const auto a = score(engine, with_pictures({picture(1, 2)}, before, 8));
  const auto b = score(engine, with_pictures({picture(2, 2)}, before, 8));
  const auto head = [&](const std::vector<float>& x) { return std::vector(x.begin(), x.begin() + 96 * 20); };
  const auto tail = [&](const std::vector<float>& x) { return std::vector(x.end() - 96, x.end()); };
  CHECK(head(a) == head(b));
  CHECK(tail(a) != tail(b));
  // Their order counts, too.
  const auto ab = score(engine, with_pictures({picture(1, 1), picture(2, 1)}, before, 8));
  const auto ba = score(engine, with_pictures({picture(2, 1), picture(1, 1)}, before, 8));
  CHECK(tail(ab) != tail(ba));
}

TEST(a_repeated_picture_is_neither_encoded_nor_prefilled_again) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e", vision_engine());
  Engine engine(dir / "m.l4e", small_options());
  const Request r = with_pictures({picture(1, 5)}, 20, 20);
  const Output first = run_all(engine, {r}).begin()->second;
  CHECK_EQ(first.cached_tokens, 0);
  CHECK_EQ(engine.stats().images.encoded_tiles, 5);
  const Output again = run_all(engine, {r}).begin()->second;
  CHECK_EQ(engine.stats().images.encoded_tiles, 5);
  CHECK_EQ(engine.stats().images.reused, 1);
  CHECK(again.cached_tokens >= 48);  // 20 + 5 * 5 + 1 + 20 = 66 tokens: all whole blocks that may be skipped
  CHECK(again.tokens == first.tokens);

  // Another picture under the same tokens shares only the blocks before it.
  const Request other = with_pictures({picture(2, 5)}, 20, 20);
  CHECK(other.prompt_token_ids == r.prompt_token_ids);
  const Output different = run_all(engine, {other}).begin()->second;
  CHECK_EQ(different.cached_tokens, 16);
  EngineOptions cold = small_options();
  cold.prefix_cache = false;
  Engine fresh(dir / "m.l4e", cold);
  CHECK(run_all(fresh, {other}).begin()->second.tokens == different.tokens);
}

TEST(an_abort_while_encoding_gives_everything_back) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e", vision_engine());
  EngineOptions o = small_options();
  o.image_cache_bytes = 6 * kRowBytes;
  Engine engine(dir / "m.l4e", o);
  Outputs outputs;
  // Something runs, so that pictures are encoded a tile a step.
  Request running = with_pictures({}, 10, 0);
  running.max_tokens = 90;
  engine.submit(running);
  collect(outputs, engine.step());
  Request r = with_pictures({picture(1, 5)}, 4, 4);
  r.n = 2;
  const uint64_t whole = engine.submit(r);
  const uint64_t half = engine.submit(r);
  const uint64_t untouched = engine.submit(with_pictures({picture(2, 4)}, 4, 4));
  collect(outputs, engine.step());
  collect(outputs, engine.step());
  CHECK_EQ(engine.stats().images.encoded_tiles, 2);
  CHECK_EQ(engine.stats().scheduler.waiting, 5);
  engine.abort(whole);
  engine.abort_sequence(half, 0, "abort");
  while (engine.has_work()) collect(outputs, engine.step());
  check_all_blocks_free(engine);
  CHECK_EQ((outputs[{whole, 0}].finish_reason), std::string("abort"));
  CHECK_EQ((outputs[{whole, 1}].finish_reason), std::string("abort"));
  CHECK_EQ((outputs[{half, 0}].finish_reason), std::string("abort"));
  CHECK_EQ((outputs[{half, 1}].tokens.size()), size_t(40));
  CHECK_EQ((outputs[{untouched, 0}].tokens.size()), size_t(40));
  CHECK(engine.stats().images.cached_bytes <= o.image_cache_bytes);
}

TEST(refuses_pictures_that_do_not_fit_the_prompt_or_the_model) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e", vision_engine());
  Engine engine(dir / "m.l4e", small_options());
  const Request good = with_pictures({picture(1, 2)}, 4, 4);
  const auto refused = [&](auto change, const std::string& expected) {
    Request r = good;
    change(r);
    std::string message;
    try {
      engine.submit(r);
    } catch (const Error& e) {
      if (e.kind() == ErrorKind::kRequest) message = e.what();
    }
    SCOPE("expected \"", expected, "\", got \"", message, "\"");
    CHECK(message.find(expected) != std::string::npos);
  };
  refused([](Request& r) { r.images.clear(); }, "has 8 patch tokens (id 91), but its 0 images make 0");
  refused([](Request& r) { r.images.push_back(picture(2, 1)); }, "but its 2 images make 12: 3 tiles of 4");
  refused([](Request& r) { r.prompt_token_ids.push_back(kPatch); }, "has 9 patch tokens");
  refused(
      [](Request& r) {
        ImageInput image = *r.images[0];
        image.tiles.pop_back();
        r.images[0] = std::make_shared<const ImageInput>(image);
      },
      "images[0] has 1535 bytes of tiles");
  refused(
      [](Request& r) {
        ImageInput image = *r.images[0];
        image.digest.clear();
        r.images[0] = std::make_shared<const ImageInput>(image);
      },
      "images[0] has a digest of 0 bytes");
  // The same digest for another number of tiles is the caller's mistake and ends that request only.
  ImageInput image = *picture(1, 3);
  image.digest = good.images[0]->digest;
  const Request wrong = with_pictures({std::make_shared<const ImageInput>(image)}, 4, 4);
  const Outputs outputs = run_all(engine, {good, wrong, good});
  std::vector<std::string> reasons;
  for (const auto& [key, output] : outputs) reasons.push_back(output.finish_reason);
  CHECK(reasons == std::vector<std::string>({"length", "error", "length"}));

  write_tiny_engine(dir / "text.l4e");
  Engine text(dir / "text.l4e", small_options());
  CHECK_THROWS(kRequest, text.submit(good));
  CHECK_THROWS(kRequest, text.encode_image(good.images[0]->tiles));
}

TEST(encodes_tiles_alike_alone_and_together) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e", vision_engine());
  Engine engine(dir / "m.l4e", small_options());
  const auto image = picture(7, 21);  // more than the tower takes at once
  const std::span<const uint8_t> tiles(image->tiles);
  const std::vector<float> together = engine.encode_image(tiles);
  CHECK_EQ(together.size(), size_t(21 * kTokens * 64));
  for (int64_t t = 0; t < 21; ++t) {
    const auto alone = engine.encode_image(tiles.subspan(size_t(t * kTileBytes), size_t(kTileBytes)));
    CHECK(alone ==
          std::vector(together.begin() + t * kTokens * 64, together.begin() + (t + 1) * kTokens * 64));
  }
  CHECK_THROWS(kRequest, engine.encode_image(tiles.first(100)));
  CHECK_THROWS(kRequest, engine.encode_image({}));
}

}  // namespace
}  // namespace llama4rt
