// A writer that stops, and another that goes on: the same bytes as one that never stopped, whatever state the
// left-over file is in.
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "format/sample_engine.h"
#include "test.h"

namespace llama4rt::test {
namespace {

const std::array<std::string, 4> kNames = {"a", "experts", "gate_up", "embed"};

// What every writer of these tests declares: each kind of tensor that is written in parts.
void declare(EngineWriter& writer) {
  writer.declare_tensor("a", "F32", {100});
  writer.declare_weight("experts", weight_shape(WeightKind::kInt4, 3, 32, 64), false);
  writer.declare_weight("gate_up", weight_shape(WeightKind::kInt8, 1, 64, 32), false);
  writer.declare_tensor("embed", "BF16", {40, 32});
}

void write(EngineWriter& writer, const std::string& name) {
  if (name == "a") {
    const std::vector<float> values = gaussian(100, 1);
    writer.write_tensor("a", std::as_bytes(std::span(values)));
  } else if (name == "experts") {
    for (int64_t e = 0; e < 3; ++e)
      writer.quantize_rows(name, e, row_range(0, 32), source_of(gaussian(32 * 64, 10 + e), 32, 64));
  } else if (name == "gate_up") {  // 20 gate and 20 up rows; the rest is padding that is never written
    std::vector<int64_t> rows = row_range(0, 36);
    for (const int64_t row : row_range(48, 52)) rows.push_back(row);
    writer.quantize_rows(name, 0, rows, source_of(gaussian(40 * 32, 20), 40, 32));
  } else {
    writer.quantize_rows(name, 0, row_range(0, 40), source_of(gaussian(40 * 32, 30), 40, 32));
  }
}

std::string finish(EngineWriter& writer, const std::string& path) {
  auto metadata = sample_metadata();
  for (auto& [key, value] : metadata)
    if (key == "files") value = "[]";
  writer.finish(metadata);
  return read_file(path);
}

std::string uninterrupted() {
  const TempDir dir;
  EngineWriter writer(dir / "x.l4e", 1);
  declare(writer);
  writer.begin();
  for (const std::string& name : kNames) write(writer, name);
  return finish(writer, dir / "x.l4e");
}

// Writes the first `count` and half of the next, and stops; what complete() said of the first.
std::vector<EngineWriter::Complete> stopped_after(const std::string& path, size_t count) {
  EngineWriter writer(path, 2);
  declare(writer);
  CHECK(!writer.begin(EngineWriter::kMetadataReserve, true));  // nothing is there to go on with
  std::vector<EngineWriter::Complete> done;
  for (size_t i = 0; i < count; ++i) {
    write(writer, kNames[i]);
    done.push_back(writer.complete(kNames[i]));
  }
  if (count == 1)
    writer.quantize_rows("experts", 1, row_range(0, 20), source_of(gaussian(20 * 64, 99), 20, 64));
  writer.suspend();
  CHECK(!std::filesystem::exists(path));
  CHECK(std::filesystem::exists(path + ".tmp"));
  return done;
}

void change_byte(const std::string& path, uint64_t at) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(std::streamoff(at));
  const char byte = char(file.get() ^ 1);
  file.seekp(std::streamoff(at));
  file.put(byte);
}

}  // namespace

TEST(a_resumed_writer_gives_the_same_bytes) {
  const std::string wanted = uninterrupted();
  for (size_t count = 0; count <= kNames.size(); ++count) {
    const TempDir dir;
    const std::string path = dir / "x.l4e";
    const auto done = stopped_after(path, count);
    EngineWriter writer(path, 1);
    declare(writer);
    CHECK(writer.begin(EngineWriter::kMetadataReserve, true));
    for (size_t i = 0; i < kNames.size(); ++i) {
      const bool restored = writer.restore(kNames[i], i < count ? done[i] : EngineWriter::Complete{});
      CHECK_EQ(restored, i < count);
      if (!restored) write(writer, kNames[i]);
    }
    CHECK(finish(writer, path) == wanted);
    CHECK(!std::filesystem::exists(path + ".tmp"));
  }
}

TEST(bytes_that_changed_meanwhile_are_written_again) {
  const std::string wanted = uninterrupted();
  const TempDir dir;
  const std::string path = dir / "x.l4e";
  const auto done = stopped_after(path, 4);
  const uint64_t size = std::filesystem::file_size(path + ".tmp");
  int noticed = 0;
  for (uint64_t at = size - 1; at > 4096; at -= 997) {
    change_byte(path + ".tmp", at);
    EngineWriter writer(path, 1);
    declare(writer);
    CHECK(writer.begin(EngineWriter::kMetadataReserve, true));
    for (size_t i = 0; i < kNames.size(); ++i) {
      if (writer.restore(kNames[i], done[i])) continue;
      ++noticed;
      write(writer, kNames[i]);
    }
    writer.suspend();
  }
  CHECK(noticed > 5);
  EngineWriter writer(path, 1);
  declare(writer);
  CHECK(writer.begin(EngineWriter::kMetadataReserve, true));
  for (size_t i = 0; i < kNames.size(); ++i) CHECK(writer.restore(kNames[i], done[i]));
  CHECK(finish(writer, path) == wanted);
}

TEST(checksums_of_other_tensors_vouch_for_nothing) {
  const TempDir dir;
  const std::string path = dir / "x.l4e";
  const auto done = stopped_after(path, 2);
  EngineWriter writer(path, 1);
  declare(writer);
  CHECK(writer.begin(EngineWriter::kMetadataReserve, true));
  EngineWriter::Complete wrong = done[1];
  wrong.checksums.pop_back();  // without its scales
  CHECK(!writer.restore("experts", wrong));
  CHECK(!writer.restore("gate_up", done[1]));
  CHECK(!writer.restore("a", done[1]));
  CHECK_THROWS(kInternal, writer.restore("nothing", done[0]));
  CHECK_THROWS(kInternal, writer.complete("a"));  // not written
}

TEST(only_a_file_of_the_same_size_is_adopted) {
  const TempDir dir;
  const std::string path = dir / "x.l4e";
  stopped_after(path, 1);
  EngineWriter other(path, 1);
  other.declare_tensor("t", "U8", {1});
  CHECK(!other.begin(EngineWriter::kMetadataReserve, true));  // what was left is gone
  other.abort();
  CHECK(!std::filesystem::exists(path + ".tmp"));
  stopped_after(path, 1);
  EngineWriter fresh(path, 1);
  declare(fresh);
  CHECK(!fresh.begin());  // not asked to go on
  CHECK_THROWS(kInternal, fresh.restore("a", {}));
}

TEST(a_left_over_file_that_is_in_use_is_not_adopted) {
  const TempDir dir;
  const std::string path = dir / "x.l4e";
  EngineWriter first(path, 1), second(path, 1);
  declare(first);
  declare(second);
  first.begin();
  CHECK_THROWS(kInternal, second.begin(EngineWriter::kMetadataReserve, true));
  first.suspend();
  CHECK(second.begin(EngineWriter::kMetadataReserve, true));
}

TEST(links_are_not_adopted) {
  const TempDir dir;
  const std::string path = dir / "x.l4e";
  stopped_after(path, 1);
  std::filesystem::rename(path + ".tmp", dir / "elsewhere");
  std::filesystem::create_symlink(dir / "elsewhere", path + ".tmp");
  EngineWriter writer(path, 1);
  declare(writer);
  CHECK_THROWS(kInternal, writer.begin(EngineWriter::kMetadataReserve, true));
  std::filesystem::remove(path + ".tmp");
  std::filesystem::create_hard_link(dir / "elsewhere", path + ".tmp");
  EngineWriter second(path, 1);
  declare(second);
  CHECK_THROWS(kInternal, second.begin(EngineWriter::kMetadataReserve, true));
}

}  // namespace llama4rt::test
