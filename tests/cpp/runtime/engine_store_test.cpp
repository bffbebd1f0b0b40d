// Engines over one store: what an earlier one computed is read back and gives the same tokens as computing, whatever was
// done to the files in between.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "base/temp_dir.h"
#include "base/xxhash.h"
#include "model/tiny_engine.h"
#include "runtime/drive_engine.h"
#include "runtime/engine/engine.h"
#include "test.h"

namespace llama4rt {
namespace {

using namespace test;
namespace fs = std::filesystem;

constexpr int64_t kBlock = 16;

EngineOptions with_store(const TempDir& dir, int64_t bytes = 8 << 20) {
  EngineOptions o = small_options();
  o.kv_store = dir / "store";
  o.kv_store_bytes = bytes;
  return o;
}

std::vector<Request> requests() {
  std::mt19937 random(7);
  std::vector<Request> out;
  for (const size_t length : {15, 16, 17, 33, 63, 64, 65, 130, 200, 256})
    out.push_back(greedy(random_prompt(random, length)));
  out[7].sampling.temperature = 0.9;
  out[7].sampling.presence_penalty = 0.7;
  out[7].seed = 3;
  out[8].n = 3;
  out[8].sampling.temperature = 1;
  out[8].sampling.repetition_penalty = 1.3;
  out[8].seed = 4;
  return out;
}

std::vector<std::vector<int32_t>> plain_tokens(const TempDir& dir, const std::vector<Request>& all) {
  EngineOptions o = small_options();
  o.prefix_cache = false;
  Engine engine(dir / "m.l4e", o);
  return tokens_of(run_all(engine, all));
}

std::vector<fs::path> segments(const TempDir& dir) {
  std::vector<fs::path> out;
  for (const auto& entry : fs::directory_iterator(dir / "store"))
    if (entry.path().extension() == ".kvs") out.push_back(entry.path());
  std::sort(out.begin(), out.end());
  return out;
}

TEST(a_new_engine_reads_back_every_full_block) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e", TinyEngine{});
  const std::vector<Request> all = requests();
  for (const char* format : {"bf16", "f32", "fp8", "int8"}) {
    for (const char* local : {"", "bf16"}) {
      SCOPE(format, " ", local);
      EngineOptions o = with_store(dir);
      o.kv_cache_dtype = format;
      o.kv_cache_dtype_local = local;
      std::vector<std::vector<int32_t>> expected;
      {
        Engine engine(dir / "m.l4e", o);
        expected = tokens_of(run_all(engine, all));
      }
      Engine engine(dir / "m.l4e", o);
      const Outputs outputs = run_all(engine, all);
      CHECK(tokens_of(outputs) == expected);
      for (const auto& [id, output] : outputs) {
        const auto length = int64_t(all[size_t(id.first - 1)].prompt_token_ids.size());
        SCOPE(length, " tokens");
        CHECK_EQ(output.cached_tokens, (length - 1) / kBlock * kBlock);
      }
      CHECK(engine.store_stats()->read_blocks > 0);
      CHECK(engine.take_store_notes().empty());
      if (std::string(format) == "bf16") CHECK(expected == plain_tokens(dir, all));
    }
  }
}

TEST(models_without_one_of_the_groups_use_a_store_too) {
  const TempDir dir;
  for (const bool chunked : {false, true}) {
    SCOPE(chunked ? "all chunked" : "all global");
    TinyEngine spec;
    spec.config.chunked_layers.assign(4, chunked);
    if (!chunked) spec.config.attention_chunk_size = 0;
    write_tiny_engine(dir / "m.l4e", spec);
    const std::vector<Request> all = requests();
    const auto expected = plain_tokens(dir, all);
    for (int round = 0; round < 2; ++round) {
      Engine engine(dir / "m.l4e", with_store(dir));
      const Outputs outputs = run_all(engine, all);
      CHECK(tokens_of(outputs) == expected);
      for (const auto& [id, output] : outputs) {
        if (round == 0 && id.second > 0) continue;  // found what its leader computed
        const auto length = int64_t(all[size_t(id.first - 1)].prompt_token_ids.size());
        CHECK_EQ(output.cached_tokens, round == 0 ? 0 : (length - 1) / kBlock * kBlock);
      }
    }
  }
}

TEST(another_model_or_shape_finds_nothing) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e", TinyEngine{});
  const std::vector<Request> all = requests();
  {
    Engine engine(dir / "m.l4e", with_store(dir));
    run_all(engine, all);
  }
  TinyEngine other;
  other.seed = 2;
  write_tiny_engine(dir / "m.l4e", other);
  const auto expected = plain_tokens(dir, all);
  const auto check = [&](EngineOptions o, bool same_bits) {
    Engine engine(dir / "m.l4e", o);
    const Outputs outputs = run_all(engine, all);
    engine.flush_store();
    if (same_bits) CHECK(tokens_of(outputs) == expected);
    CHECK_EQ(engine.store_stats()->read_blocks, int64_t(0));
    CHECK(engine.store_stats()->written_blocks > 0);
  };
  check(with_store(dir), true);
  EngineOptions o = with_store(dir);
  o.block_size = 32;
  check(o, true);
  o = with_store(dir);
  o.kv_cache_dtype = "int8";
  check(o, false);
  o = with_store(dir);
  o.activations = "int16";
  check(o, false);
}

std::string bytes_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_bytes(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

TEST(damaged_files_cost_time_and_never_a_token) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e", TinyEngine{});
  const std::vector<Request> all = requests();
  const auto expected = plain_tokens(dir, all);
  {
    Engine engine(dir / "m.l4e", with_store(dir));
    run_all(engine, all);
  }
  std::vector<std::pair<fs::path, std::string>> whole;
  for (const auto& entry : fs::directory_iterator(dir / "store"))
    whole.emplace_back(entry.path(), bytes_of(entry.path()));
  std::mt19937 random(5);
  int64_t damaged = 0;
  for (int round = 0; round < 60; ++round) {
    SCOPE("round ", round);
    fs::remove_all(dir / "store");
    fs::create_directory(dir / "store");
    for (const auto& [path, bytes] : whole) {
      std::string changed = bytes;
      if (round % 4 == 0 && !changed.empty()) changed.resize(random() % changed.size());
      if (round % 4 == 1 && !changed.empty())
        for (int i = 0; i < 20; ++i) changed[random() % changed.size()] ^= char(1 << random() % 8);
      if (round % 4 == 2 && path.extension() == ".idx") continue;
      if (round % 4 == 3) changed += changed.substr(changed.size() / 2);
      write_bytes(path, changed);
    }
    Engine engine(dir / "m.l4e", with_store(dir));
    CHECK(tokens_of(run_all(engine, all)) == expected);
    const StoreStats stats = *engine.store_stats();
    damaged += stats.damaged;
    if (stats.damaged > 0) CHECK(!engine.take_store_notes().empty());
    if (round % 4 == 2) CHECK(stats.read_blocks > 0 && stats.damaged == 0);  // only indices were missing
  }
  CHECK(damaged > 0);
}

// A record that says it is another's: found under the right name, and its tokens are compared.
TEST(a_record_of_other_tokens_is_not_taken) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e", TinyEngine{});
  std::mt19937 random(9);
  const Request a = greedy(random_prompt(random, 40)), b = greedy(random_prompt(random, 40));
  const auto expected = plain_tokens(dir, {b});
  {
    Engine engine(dir / "m.l4e", with_store(dir));
    run_all(engine, {a});
    run_all(engine, {b});
  }
  // The indices of all segments name the places of a's blocks by b's keys, and the other way round.
  for (const fs::path& segment : segments(dir)) {
    const fs::path index = segment.string() + ".idx";
    std::string bytes = bytes_of(index);
    const size_t header = 32, entry = 56;
    const size_t count = (bytes.size() - header) / entry;
    std::vector<std::string> keys;
    for (size_t i = 0; i < count; ++i) keys.push_back(bytes.substr(header + i * entry, 32));
    std::reverse(keys.begin(), keys.end());
    for (size_t i = 0; i < count; ++i) bytes.replace(header + i * entry, 32, keys[i]);
    const uint64_t checksum = xxh64(bytes.data() + header, bytes.size() - header);
    bytes.replace(24, 8, reinterpret_cast<const char*>(&checksum), 8);
    write_bytes(index, bytes);
  }
  Engine engine(dir / "m.l4e", with_store(dir));
  CHECK(tokens_of(run_all(engine, {b})) == expected);
  CHECK(engine.store_stats()->damaged > 0);
}

TEST(the_directory_stays_within_its_limit_and_keeps_what_is_used) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e", TinyEngine{});
  std::mt19937 random(11);
  const int64_t limit = 512 << 10;  // a prompt of 400 tokens takes 200 KB
  const Request kept = greedy(random_prompt(random, 400), 1);
  {
    Engine engine(dir / "m.l4e", with_store(dir, limit));
    run_all(engine, {kept});
  }
  for (int round = 0; round < 12; ++round) {
    Engine engine(dir / "m.l4e", with_store(dir, limit));
    const Outputs again = run_all(engine, {kept});
    CHECK_EQ(again.begin()->second.cached_tokens, int64_t(384));
    run_all(engine, {greedy(random_prompt(random, 200), 1)});
    engine.close();
    int64_t bytes = 0;
    for (const fs::path& segment : segments(dir)) bytes += int64_t(fs::file_size(segment));
    CHECK(bytes <= limit);
  }
  EngineOptions tiny = with_store(dir, 1000);
  CHECK_THROWS(kConfig, Engine(dir / "m.l4e", tiny));
}

TEST(engines_share_a_store_while_both_are_open) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e", TinyEngine{});
  const std::vector<Request> all = requests();
  const auto expected = plain_tokens(dir, all);
  Engine one(dir / "m.l4e", with_store(dir));
  run_all(one, all);
  one.flush_store();
  Engine two(dir / "m.l4e", with_store(dir));  // one's segments are not complete
  CHECK(tokens_of(run_all(two, all)) == expected);
  CHECK(two.store_stats()->read_blocks > 0);
  CHECK_EQ(two.store_stats()->damaged, int64_t(0));
  CHECK(tokens_of(run_all(one, all)) == expected);
}

TEST(small_caches_and_many_requests_at_once_change_nothing) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e", TinyEngine{});
  std::vector<Request> all = requests();
  for (const Request& r : requests()) all.push_back(r);
  const auto expected = plain_tokens(dir, all);
  for (int round = 0; round < 3; ++round) {
    EngineOptions o = with_store(dir);
    o.kv_cache_bytes = 24 * kTinyBlockBytes;  // preempts
    o.max_batched_tokens = 37;
    Engine engine(dir / "m.l4e", o);
    CHECK(tokens_of(run_all(engine, all)) == expected);
  }
}

TEST(a_request_may_end_while_its_blocks_are_read) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e", TinyEngine{});
  std::mt19937 random(3);
  const Request r = greedy(random_prompt(random, 400));
  {
    Engine engine(dir / "m.l4e", with_store(dir));
    run_all(engine, {r});
  }
  Engine engine(dir / "m.l4e", with_store(dir));
  for (int i = 0; i < 20; ++i) {
    const uint64_t id = engine.submit(r);
    for (int step = 0; step < i % 4; ++step) engine.step();
    engine.abort(id);
    while (engine.has_work()) engine.step();
    check_all_blocks_free(engine);
  }
}

TEST(exported_blocks_serve_in_another_store) {
  const TempDir dir, elsewhere;
  write_tiny_engine(dir / "m.l4e", TinyEngine{});
  std::mt19937 random(13);
  for (const size_t length : {64, 100, 129, 200}) {
    SCOPE(length, " tokens");
    const Request r = greedy(random_prompt(random, length));
    const auto expected = plain_tokens(dir, {r});
    Engine engine(dir / "m.l4e", with_store(dir));
    run_all(engine, {r});
    engine.flush_store();
    const std::string file = elsewhere / "blocks";
    const int64_t count = engine.export_blocks(r.prompt_token_ids, {}, file);
    CHECK(count >= int64_t(length) / kBlock);
    EngineOptions o = with_store(elsewhere);
    Engine other(dir / "m.l4e", o);
    CHECK_EQ(other.adopt_blocks(file), count);
    CHECK(!fs::exists(file));
    const Outputs outputs = run_all(other, {r});
    CHECK(tokens_of(outputs) == expected);
    CHECK_EQ(outputs.begin()->second.cached_tokens, (int64_t(length) - 1) / kBlock * kBlock);
  }
}

TEST(pictures_count_and_are_told_apart) {
  const TempDir dir;
  TinyEngine spec;
  spec.config.vision = tiny_vision_config(2);
  write_tiny_engine(dir / "m.l4e", spec);
  const auto picture = [](uint32_t seed, size_t tiles) {
    std::mt19937 random(seed);
    ImageInput image;
    image.digest = "picture " + std::to_string(seed);
    image.tiles.resize(tiles * kTinySide * kTinySide * 3);
    for (uint8_t& value : image.tiles) value = uint8_t(random());
    return std::make_shared<const ImageInput>(std::move(image));
  };
  const auto prompt = [&](std::vector<uint32_t> seeds) {
    std::vector<int64_t> ids = {1, 5, 6};
    Request r = greedy({}, 20);
    for (const uint32_t seed : seeds) {
      r.images.push_back(picture(seed, 5));
      for (int tile = 0; tile < 5; ++tile) {
        ids.insert(ids.end(), 4, kTinyPatchToken);
        ids.push_back(7);
      }
    }
    ids.insert(ids.end(), {8, 9, 10, 11});
    r.prompt_token_ids = ids;
    return r;
  };
  const std::vector<Request> all = {prompt({1, 2, 1}), prompt({2, 1, 1}), prompt({1, 2, 3})};
  std::vector<std::vector<int32_t>> expected;
  for (const Request& r : all) expected.push_back(plain_tokens(dir, {r})[0]);
  CHECK(expected[0] != expected[2]);
  {
    Engine engine(dir / "m.l4e", with_store(dir));
    CHECK(tokens_of(run_all(engine, {all[0]}))[0] == expected[0]);
  }
  // The same tokens with other pictures, whose numbers in that process may be the same as another's in this one.
  for (const size_t which : {1, 2, 0}) {
    SCOPE("request ", which);
    Engine engine(dir / "m.l4e", with_store(dir));
    const Outputs outputs = run_all(engine, {all[which]});
    CHECK(tokens_of(outputs)[0] == expected[which]);
    const int64_t cached = outputs.begin()->second.cached_tokens;
    CHECK_EQ(cached, int64_t(which == 1 ? 0 : which == 2 ? 48 : 80));
    const std::string file = dir / "blocks";
    engine.flush_store();
    std::vector<std::pair<std::string, int64_t>> named;
    for (const auto& image : all[which].images) named.emplace_back(image->digest, 5);
    CHECK(engine.export_blocks(all[which].prompt_token_ids, named, file) >= 5);
    fs::remove(file);
  }
}

}  // namespace
}  // namespace llama4rt
