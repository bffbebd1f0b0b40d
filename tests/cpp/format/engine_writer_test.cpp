#include "format/engine_writer.h"

#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "format/sample_engine.h"
#include "test.h"

namespace llama4rt::test {
namespace {

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

}  // namespace

TEST(the_same_calls_give_the_same_bytes) {
  const TempDir dir;
  write_sample_engine(dir / "a.l4e", 1);
  write_sample_engine(dir / "b.l4e", 3);
  CHECK(read_file(dir / "a.l4e") == read_file(dir / "b.l4e"));
  CHECK(!std::filesystem::exists(dir / "a.l4e.tmp"));
}

TEST(tensors_that_fill_cache_lines_come_first_and_all_are_aligned) {
  const TempDir dir;
  EngineWriter writer(dir / "x.l4e", 1);
  writer.declare_tensor("files/odd", "U8", {13});
  writer.declare_tensor("f32", "F32", {5});
  writer.declare_tensor("big", "U8", {128});
  writer.declare_tensor("bf16", "BF16", {3});
  writer.declare_tensor("files/empty", "U8", {0});
  writer.begin(0);
  writer.write_tensor("files/odd", bytes_of(std::vector<char>(13, 'o')));
  writer.write_tensor("f32", bytes_of(std::vector<float>(5, 1.5f)));
  writer.write_tensor("big", bytes_of(std::vector<char>(128, 'b')));
  writer.write_tensor("bf16", bytes_of(std::vector<uint16_t>(3, 0x3f80)));
  writer.write_tensor("files/empty", {});
  auto metadata = sample_metadata();
  for (auto& [key, value] : metadata)
    if (key == "files") value = R"(["odd","empty"])";
  metadata.emplace_back("large", std::string(20000, 'x'));  // more than was reserved: the payload moves
  writer.finish(metadata);
  const EngineFile file(dir / "x.l4e");
  CHECK_EQ(file.verify(1).size(), size_t(0));
  CHECK_EQ(file.tensors()[0].name, "big");
  CHECK_EQ(file.tensors()[1].name, "files/empty");
  CHECK_EQ(file.tensors()[2].name, "f32");
  CHECK_EQ(file.tensors()[3].name, "bf16");
  CHECK_EQ(file.tensors()[4].name, "files/odd");
  CHECK_EQ(file.tensors()[0].offset % 4096, 0u);
  CHECK_EQ(file.file("empty").size(), size_t(0));
  CHECK_EQ(char(file.file("odd")[12]), 'o');
  CHECK_EQ(file.tensor("f32").ptr<float>()[4], 1.5f);
}

TEST(misuse_is_refused) {
  const TempDir dir;
  const std::vector<float> values = gaussian(32 * 32, 1);
  const std::vector<int64_t> all = row_range(0, 32);
  EngineWriter writer(dir / "x.l4e", 1);
  writer.declare_tensor("t", "F32", {4});
  CHECK_THROWS(kInternal, writer.declare_tensor("t", "F32", {4}));
  CHECK_THROWS(kInternal, writer.declare_tensor("u", "F99", {4}));
  CHECK_THROWS(kInternal, writer.declare_tensor("u", "F32", {-4}));
  CHECK_THROWS(kInternal, writer.declare_tensor("u", "F32", {int64_t(1) << 40, int64_t(1) << 40}));
  CHECK_THROWS(kInternal, writer.declare_tensor("__metadata__", "F32", {4}));
  CHECK_THROWS(kInternal, writer.declare_tensor(std::string(257, 'n'), "F32", {4}));
  CHECK_THROWS(kInternal, writer.declare_tensor("\xff", "F32", {4}));
  CHECK_THROWS(kInternal, writer.declare_weight("w", weight_shape(WeightKind::kInt4, 1, 32, 32, 48), false));
  CHECK_THROWS(kInternal, writer.declare_weight("w", weight_shape(WeightKind::kFp8, 1, 32, 32), true));
  CHECK_THROWS(kInternal, writer.declare_weight("w", weight_shape(WeightKind::kTable4, 1, 32, 32), true));
  CHECK_THROWS(kInternal, writer.declare_weight("w", weight_shape(WeightKind::kFp8, 1, 32, 32), false, true));
  CHECK_THROWS(kInternal, writer.declare_weight("w", weight_shape(WeightKind::kInt4, 1, 32, 32, 8), false));
  CHECK_THROWS(kInternal, writer.declare_weight("w", weight_shape(WeightKind::kInt8, 0, 32, 32), false));
  CHECK_THROWS(kInternal, writer.write_tensor("t", bytes_of(values)));
  CHECK_THROWS(kInternal, writer.finish({}));
  writer.declare_weight("w", weight_shape(WeightKind::kInt4, 2, 32, 32), false);
  writer.begin(0);
  CHECK_THROWS(kInternal, writer.begin(0));
  CHECK_THROWS(kInternal, writer.declare_tensor("v", "F32", {4}));
  CHECK_THROWS(kInternal, writer.write_tensor("t", bytes_of(values)));
  CHECK_THROWS(kInternal, writer.write_tensor("w", bytes_of(values)));
  CHECK_THROWS(kInternal, writer.write_tensor("nothing", bytes_of(values)));
  CHECK_THROWS(kInternal, writer.quantize_rows("w", 2, all, source_of(values, 32, 32)));
  CHECK_THROWS(kInternal, writer.quantize_rows("w", 0, all, source_of(values, 16, 32)));
  CHECK_THROWS(kInternal, writer.quantize_rows("w", 0, row_range(0, 16), source_of(values, 16, 64)));
  CHECK_THROWS(kInternal, writer.quantize_rows("w", 0, row_range(1, 33), source_of(values, 32, 32)));
  writer.quantize_rows("w", 1, all, source_of(values, 32, 32));
  CHECK_THROWS(kInternal, writer.quantize_rows("w", 1, row_range(0, 1), source_of(values, 1, 32)));
  CHECK_THROWS(kInternal, writer.finish({{"weights", "{}"}}));
  std::string message;
  try {
    writer.finish(sample_metadata());
  } catch (const Error& error) {
    message = error.what();
  }
  CHECK(message.find("2 declared tensors were not written completely: t, w (expert 0)") != std::string::npos);
  CHECK(!std::filesystem::exists(dir / "x.l4e"));
  writer.abort();
  writer.abort();
  CHECK(!std::filesystem::exists(dir / "x.l4e.tmp"));
  CHECK_THROWS(kInternal, writer.finish({}));
}

// Codes must come with what was declared, and values only to kinds that are made of values.
TEST(codes_must_be_what_was_declared) {
  const TempDir dir;
  const std::vector<int64_t> all = row_range(0, 32);
  const std::vector<float> values = gaussian(32 * 32, 1), sides(32, 0.5f);
  const std::vector<uint8_t> codes(32 * 32, 1), zeros(32, 1);
  EngineWriter writer(dir / "x.l4e", 1);
  writer.declare_weight("plain", weight_shape(WeightKind::kBF16, 1, 32, 32), false);
  writer.declare_weight("zeros", weight_shape(WeightKind::kInt8, 1, 32, 32, 32, DType::kF32), true);
  writer.declare_weight("offsets", weight_shape(WeightKind::kInt4, 1, 32, 32, 32, DType::kF32), false, true);
  writer.declare_weight("table", weight_shape(WeightKind::kTable4, 1, 32, 32, 32, DType::kF32), false);
  writer.declare_weight("factored", weight_shape(WeightKind::kInt8, 1, 32, 32, 32, DType::kI8), false);
  writer.begin();
  CodeRows rows{.codes = codes.data(), .scales = sides.data(), .rows = 32};
  const auto refusal = [&](const char* name, const CodeRows& source, DType dtype) -> std::string {
    try {
      writer.import_rows(name, 0, all, source, dtype);
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::kInternal);
      return std::string(error.what()).substr((dir / "x.l4e").size() + 2);
    }
    return "";
  };
  CHECK_EQ(refusal("plain", rows, DType::kF32), "plain: declared as bf16, which has no codes");
  CHECK_EQ(refusal("table", rows, DType::kBF16),
           "table: declared as table4 with F32 scales; the codes to import come with BF16 scales");
  CHECK_EQ(
      refusal("zeros", rows, DType::kF32),
      "zeros: declared as int8 with F32 scales and zero points; the codes to import come with F32 scales");
  rows.zeros = zeros.data();
  rows.offsets = sides.data();
  CHECK_EQ(refusal("offsets", rows, DType::kF32),
           "offsets: declared as int4 with F32 scales and offsets; the codes to import come with F32 scales, "
           "zero points and offsets");
  for (const char* name : {"zeros", "offsets", "table", "factored"})
    CHECK_THROWS(kInternal, writer.quantize_rows(name, 0, all, source_of(values, 32, 32)));
  rows.zeros = nullptr;
  rows.factors = sides.data();
  CHECK_EQ(refusal("offsets", rows, DType::kF32), "offsets: F32 scales and offsets come without factors");
  rows.factors = nullptr;
  CHECK_EQ(refusal("offsets", rows, DType::kF32), "");
  rows.offsets = nullptr;
  CHECK_EQ(refusal("factored", rows, DType::kI8), "factored: I8 scales come with factors");
}

TEST(only_the_padding_of_gate_up_may_stay_unwritten) {
  // F = 20: stored blocks are gate 0..15, up 0..15, gate 16..19, up 16..19.
  const std::vector<float> values = gaussian(64 * 32, 1);
  const auto finishes = [&](std::vector<int64_t> rows) {
    const TempDir dir;
    EngineWriter writer(dir / "x.l4e", 1);
    writer.declare_weight("w", weight_shape(WeightKind::kInt8, 1, 64, 32), false);
    writer.begin(0);
    writer.quantize_rows("w", 0, rows, source_of(values, int64_t(rows.size()), 32));
    try {
      writer.finish({});
    } catch (const Error&) {
      return false;
    }
    return true;
  };
  std::vector<int64_t> rows = row_range(0, 36);
  for (const int64_t row : row_range(48, 52)) rows.push_back(row);
  CHECK(finishes(rows));
  CHECK(finishes(row_range(0, 64)));
  CHECK(!finishes(row_range(0, 48)));  // the last block is missing
  rows.pop_back();
  CHECK(!finishes(rows));  // gate and up differ
  CHECK(!finishes(row_range(1, 64)));
  CHECK(!finishes(row_range(0, 32)));
}

TEST(plain_tensors_must_be_finite) {
  const TempDir dir;
  EngineWriter writer(dir / "x.l4e", 2);
  writer.declare_tensor("f", "F32", {3'000'000});
  writer.declare_tensor("h", "F16", {2});
  writer.declare_tensor("b", "BF16", {2});
  writer.declare_tensor("bytes", "U8", {4});
  writer.begin(0);
  std::vector<float> values(3'000'000, 1.0f);
  values[2'999'999] = values[1'500'000] = std::numeric_limits<float>::quiet_NaN();
  std::string message;
  try {
    writer.write_tensor("f", bytes_of(values));
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::kCheckpoint);
    message = error.what();
  }
  CHECK(message.find("element 1500000 is NaN") != std::string::npos);
  CHECK_THROWS(kCheckpoint, writer.write_tensor("h", bytes_of(std::vector<uint16_t>{0, 0x7c00})));
  CHECK_THROWS(kCheckpoint, writer.write_tensor("b", bytes_of(std::vector<uint16_t>{0, 0xff80})));
  CHECK_THROWS(kCheckpoint, writer.write_tensor("b", bytes_of(std::vector<uint16_t>{0x7fc0, 0})));
  writer.write_tensor("h", bytes_of(std::vector<uint16_t>{0, 0x7bff}));
  writer.write_tensor("bytes", bytes_of(std::vector<uint8_t>{255, 255, 255, 255}));
}

TEST(an_embedding_is_converted_row_by_row) {
  const TempDir dir;
  EngineWriter writer(dir / "x.l4e", 2);
  writer.declare_tensor("embed", "BF16", {40, 32});
  writer.begin(0);
  const std::vector<float> values = gaussian(40 * 32, 9);
  const std::vector<float> second(values.begin() + 8 * 32, values.end());
  writer.quantize_rows("embed", 0, row_range(8, 40), source_of(second, 32, 32));
  CHECK_THROWS(kInternal, writer.finish(sample_metadata()));
  writer.quantize_rows("embed", 0, row_range(0, 8), source_of(values, 8, 32));
  CHECK_THROWS(kInternal, writer.quantize_rows("embed", 0, row_range(0, 8), source_of(values, 8, 32)));
  auto metadata = sample_metadata();
  for (auto& [key, value] : metadata)
    if (key == "files") value = "[]";
  writer.finish(metadata);
  const EngineFile file(dir / "x.l4e");
  const Weight w = file.weight("embed");
  int wrong = 0;
  for (int64_t n = 0; n < 40; ++n)
    for (int64_t k = 0; k < 32; ++k)
      wrong += weight_value(w, n, k) != to_float(to_bf16(values[size_t(n * 32 + k)]));
  CHECK_EQ(wrong, 0);
}

TEST(one_writer_per_output) {
  const TempDir dir;
  const auto declared = [&](EngineWriter& writer) -> EngineWriter& {
    writer.declare_tensor("t", "U8", {1});
    return writer;
  };
  EngineWriter first(dir / "x.l4e", 1), second(dir / "x.l4e", 1);
  declared(first).begin(0);
  declared(second);
  CHECK_THROWS(kInternal, second.begin(0));
  first.abort();
  second.begin(0);
}

}  // namespace llama4rt::test
