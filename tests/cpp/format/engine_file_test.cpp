#include "format/engine_file.h"

#include <cstring>
#include <string>
#include <vector>

#include "format/sample_engine.h"
#include "test.h"

namespace llama4rt::test {
namespace {

struct BadHeader {
  const char* from;      // first occurrence in the header text ...
  const char* to;        // ... is replaced by this
  const char* expected;  // part of the message
};

// Nested JSON (config, weights, checksums, files) appears in the header with its quotes escaped.
const BadHeader kBadHeaders[] = {
    // the container
    {"{\"__metadata__\"", "[\"__metadata__\"", "must begin with"},
    {"{\"__metadata__\":{", "{\"__metadata__\":{,", "expected a quoted key"},
    {"{\"__metadata__\":{", "{\"__metadata__\":[{", "expected"},
    {"\"format\":\"llama4rt engine\"", "\"format\":1", "\"format\" is a number; it must be a string"},
    {"\"format\":\"llama4rt engine\"", "\"format\":null", "it must be a string"},
    {"\"format\":\"llama4rt engine\"", "\"format\":\"\\ud800\"", "high surrogate"},
    {"\"format\":\"llama4rt engine\"", "\"format\":\"\xff\"", "invalid UTF-8"},
    {"\"format\":\"llama4rt engine\"", "\"format\":\"a\",\"format\":\"b\"", "duplicate key \"format\""},
    {"\"norm\":{", "\"embed\":{", "duplicate key"},
    {"\"norm\":{", "\"\":{", "the name has 0 bytes"},
    {"\"norm\":{", "\"norm\":3,\"x\":{", "the entry is a number"},
    {"\"norm\":{\"dtype\":\"F32\"", "\"norm\":{\"dtype\":\"F31\"", "unknown dtype \"F31\""},
    {"\"norm\":{\"dtype\":\"F32\"", "\"norm\":{\"dtype\":32", "dtype must be a string"},
    {"\"norm\":{\"dtype\":\"F32\"", "\"norm\":{\"dtypo\":\"F32\"", "unknown field \"dtypo\""},
    {"\"norm\":{\"dtype\":\"F32\",", "\"norm\":{", "dtype is missing"},
    {"\"norm\":{\"dtype\":\"F32\"", "\"norm\":{\"dtype\":\"F64\"",
     "needs 256 bytes, but data_offsets give 128"},
    {"\"shape\":[32]", "\"shape\":[-32]", "shape[0] must be an integer"},
    {"\"shape\":[32]", "\"shape\":[32.0]", "shape[0] must be an integer"},
    {"\"shape\":[32]", "\"shape\":[32e0]", "shape[0] must be an integer"},
    {"\"shape\":[32]", "\"shape\":32", "shape must be a list"},
    {"\"shape\":[32]", "\"shape\":[1,1,1,1,1,1,1,1,32]", "at most 8 dimensions"},
    {"\"shape\":[32]", "\"shape\":[281474976710656,281474976710656]", "overflows"},
    {"\"shape\":[32]", "\"shape\":[4611686018427387904]", "shape[0] must be an integer"},
    {"\"shape\":[32]", "\"shape\":[281474976710656,65535]", "overflows"},
    {"\"shape\":[32]", "\"shape\":[33]", "needs 132 bytes, but data_offsets give 128"},
    {"\"shape\":[32]", "\"shape\":[032]", "leading zero"},
    {"\"data_offsets\":[0,", "\"data_offsets\":[1,", "needs 2560 bytes, but data_offsets give 2559"},
    {"[40,32],\"data_offsets\":[0,2560]", "[39,32],\"data_offsets\":[64,2560]",
     "payload begins at 64, leaving a hole after 0"},
    {"\"data_offsets\":[0,", "\"data_offsets\":[-1,", "data_offsets[0] must be an integer >= 0"},
    {"\"data_offsets\":[0,", "\"data_offsets\":[0,0,", "list of two integers"},
    {"\"data_offsets\":[0,", "\"data_offsets\":[999999999,", "run backwards"},
    {"\"data_offsets\":[0,", "\"data_offsets\":[2561,", "run backwards: 2561 to 2560"},
    {"\"data_offsets\":[0,2560]", "\"data_offsets\":[0,99999999999]", "payload ends at 99999999999"},
    {"\"data_offsets\":[0,2560]", "\"data_offsets\":[0,18446744073709551615]", "must be an integer >= 0"},
    {"\"data_offsets\":[2560,2688]", "\"data_offsets\":[2432,2560]", "overlapping what ends at 2560"},
    {"\"data_offsets\":[0,2560]},", "\"data_offsets\":[0,2560],},", "expected a quoted key"},
    // what an engine file must say
    {"\"format\":\"llama4rt engine\"", "\"format\":\"pt\"",
     "but not an engine file; build one from a checkpoint"},
    {"\"format_version\":\"1\"", "\"format_version\":\"2\"", "format version 2; this llama4rt"},
    {"\"format_version\":\"1\"", "\"format_version\":\"0\"", "build the file again with: llama4rt build"},
    {"\"format_version\":\"1\",", "", "\"format_version\" is missing"},
    {"\"target\":\"cpu\"", "\"target\":\"cuda\"", "llama4rt build --target cpu"},
    {"\"layout\":\"cpu16\"", "\"layout\":\"sm90\"", "layout \"sm90\""},
    {"\"target\":\"cpu\",", "", "\"target\" is missing"},
    {"\"header_checksum\":\"", "\"header_checksun\":\"", "\"header_checksum\" is missing"},
    {"\"header_checksum\":\"", "\"header_checksum\":\"A", "16 lower-case hexadecimal digits"},
    {"\"config\":\"{", "\"config\":\"[{", "config"},
    {"\"config\":", "\"konfig\":", "\"config\" is missing"},
    {"\\\"num_attention_heads\\\":2", "\\\"num_attention_heads\\\":0", "num_attention_heads is 0"},
    {"\\\"num_key_value_heads\\\":1", "\\\"num_key_value_heads\\\":3",
     "is not a multiple of num_key_value_heads (3)"},
    {"\\\"hidden_size\\\":32", "\\\"hidden_size\\\":1e999", "outside the range of double"},
    {"\\\"head_dim\\\":16", "\\\"head_dim\\\":15", "must be even"},
    {"\\\"vocab_size\\\":40", "\\\"vocab_size\\\":-40", "vocab_size is -40"},
    // checksums
    {"\\\"norm\\\":\\\"", "\\\"nurm\\\":\\\"", "checksums: there is no tensor \"nurm\""},
    {"\"checksums\":\"{\\\"embed\\\":\\\"", "\"checksums\":\"{\\\"embed\\\":\\\"x",
     "checksums: embed must be 16"},
    {"\"checksums\":\"{", "\"checksums\":\"{}", "checksums: unexpected text"},
    {"\"checksums\":\"{", "\"checksums\":\"[{", "checksums"},
    {"\"checksums\":\"", "\"chucksums\":\"", "\"checksums\" is missing"},
    // weights
    {"\"weights\":\"", "\"wheights\":\"", "\"weights\" is missing"},
    {"\"weights\":\"{\\\"layers.0.attn.qkv\\\"", "\"weights\":\"{\\\"layers.9.attn.qkv\\\"",
     "there is no tensor \"layers.9.attn.qkv\""},
    {"\\\"kind\\\":\\\"int4\\\"", "\\\"kind\\\":\\\"int3\\\"", "unknown kind \"int3\""},
    {"\\\"kind\\\":\\\"int4\\\"", "\\\"kind\\\":4", "kind must be a string"},
    {"\\\"kind\\\":\\\"int4\\\"", "\\\"kind\\\":\\\"int8\\\"", "but its descriptor needs U8 [4, 8, 64]"},
    {"\\\"kind\\\":\\\"int4\\\"", "\\\"kind\\\":\\\"bf16\\\"", "bf16 allows 0 only"},
    {"\\\"kind\\\":\\\"int4\\\"", "\\\"kynd\\\":\\\"int4\\\"", "unknown field \"kynd\""},
    {"\\\"layout\\\":\\\"cpu16\\\"", "\\\"layout\\\":\\\"row_major\\\"",
     "the weights of this file are in cpu16"},
    {"\\\"shape\\\":[1,64,32]", "\\\"shape\\\":[1,80,32]", "its descriptor needs U8 [5, 4, 64]"},
    {"\\\"shape\\\":[1,64,32]", "\\\"shape\\\":[1,64,320]", "its descriptor needs U8 [4, 40, 64]"},
    {"\\\"shape\\\":[1,64,32]", "\\\"shape\\\":[2,64,32]", "its descriptor needs U8 [2, 4, 4, 64]"},
    {"\\\"shape\\\":[1,64,32]", "\\\"shape\\\":[0,64,32]",
     "shape[0] (experts) must be an integer in 1..4096"},
    {"\\\"shape\\\":[1,64,32]", "\\\"shape\\\":[1,0,32]", "shape[1] (rows) must be an integer in 1"},
    {"\\\"shape\\\":[1,64,32]", "\\\"shape\\\":[1,64,-1]", "shape[2] (columns) must be an integer in 1"},
    {"\\\"shape\\\":[1,64,32]", "\\\"shape\\\":[1,64,9223372036854775807]", "shape[2] (columns)"},
    {"\\\"shape\\\":[1,64,32]", "\\\"shape\\\":[64,32]", "must be a list [E, N, K]"},
    {"32],\\\"group_size\\\":32", "32],\\\"group_size\\\":0",
     "group_size is 0; int4 allows 16, 32, 64 or 128"},
    {"32],\\\"group_size\\\":32", "32],\\\"group_size\\\":33", "group_size is 33"},
    {"32],\\\"group_size\\\":32", "32],\\\"group_size\\\":-32", "group_size must be an integer in 0..128"},
    {"\\\"rms_error\\\":", "\\\"rms_error\\\":-", "rms_error must be a number >= 0"},
    {"\\\"max_error\\\":", "\\\"max_error\\\":null,\\\"x\\\":", "unknown field \"x\""},
    // offsets and tables
    {",\\\"offsets\\\":true", "", "offsets are stored, but the descriptor has none"},
    {",\\\"offsets\\\":true", ",\\\"offsets\\\":false", "offsets must be true, or left out"},
    {",\\\"offsets\\\":true", ",\\\"offsets\\\":1", "offsets must be true, or left out"},
    {"32],\\\"group_size\\\":32", "32],\\\"group_size\\\":32,\\\"offsets\\\":true",
     "there is no tensor \"layers.0.attn.qkv.offsets\" (offsets)"},
    {"\"layers.1.attn.o.offsets\":{\"dtype\":\"I8\"", "\"layers.1.attn.o.offsets\":{\"dtype\":\"U8\"",
     "needs I8 [2, 2, 16] (offsets)"},
    {"\"layers.1.attn.o.scales\":{\"dtype\":\"I8\"", "\"layers.1.attn.o.scales\":{\"dtype\":\"U8\"",
     "needs BF16 [2, 2, 16] (scales)"},
    {"\"layers.1.attn.o.factors\":{\"dtype\":\"F32\"", "\"layers.1.attn.o.factors\":{\"dtype\":\"I32\"",
     "needs F32 [2, 1, 16] (factors)"},
    {"\"layers.1.attn.o.offset_factors\":{\"dtype\":\"F32\"",
     "\"layers.1.attn.o.offset_factors\":{\"dtype\":\"I32\"", "needs F32 [2, 1, 16] (factors of offsets)"},
    {",\\\"table\\\":[-120", ",\\\"offsets\\\":true,\\\"table\\\":[-120", "table4 has no offsets"},
    {",\\\"table\\\":[-120", ",\\\"tables\\\":[-120", "unknown field \"tables\""},
    {",\\\"table\\\":[-120", ",\\\"table\\\":[-129", "every entry of table must be an integer in -128..127"},
    {",\\\"table\\\":[-120", ",\\\"table\\\":[1.5", "every entry of table must be an integer in -128..127"},
    {",\\\"table\\\":[-120,", ",\\\"table\\\":[", "table must be a list of 16 integers"},
    {"32],\\\"group_size\\\":32", "32],\\\"group_size\\\":32,\\\"table\\\":[]", "table is for table4 alone"},
    {"\\\"kind\\\":\\\"int4\\\"", "\\\"kind\\\":\\\"table4\\\"", "table is missing"},
    {"\\\"kind\\\":\\\"fp8\\\"", "\\\"kind\\\":\\\"fp9\\\"", "unknown kind \"fp9\""},
    {"\"layers.0.attn.qkv.scales\":{\"dtype\":\"BF16\"", "\"layers.0.attn.qkv.scales\":{\"dtype\":\"I16\"",
     "needs BF16 [4, 1, 16] (scales)"},
    {"\"layers.0.attn.o.zeros\":{\"dtype\":\"U8\"", "\"layers.0.attn.o.zeros\":{\"dtype\":\"I8\"",
     "(zero points)"},
    {"\"layers.0.attn.qkv\":{\"dtype\":\"U8\",\"shape\":[4,4,64]",
     "\"layers.0.attn.qkv\":{\"dtype\":\"U8\",\"shape\":[4,64,4]", "stored as U8 [4, 64, 4]"},
    // files
    {"\"files\":\"[", "\"files\":\"{", "files: "},
    {"\"files\":\"[\\\"tokenizer.model\\\"]\"", "\"files\":\"[]\"", "stored but not listed"},
    {"\"files\":\"[\\\"tokenizer.model\\\"]\"", "\"files\":\"[\\\"x\\\"]\"", "\"x\" is not stored"},
    {"\"files\":\"[\\\"tokenizer.model\\\"]\"", "\"files\":\"[\\\"../x\\\"]\"", "not a plain file name"},
    {"\"files\":\"[\\\"tokenizer.model\\\"]\"",
     "\"files\":\"[\\\"tokenizer.model\\\",\\\"tokenizer.model\\\"]\"", "appears twice"},
    {"\"files/tokenizer.model\":{\"dtype\":\"U8\",\"shape\":[11]",
     "\"files/tokenizer.model\":{\"dtype\":\"U8\",\"shape\":[1,11]", "it must be U8 [bytes]"},
    {"\"files/tokenizer.model\":{\"dtype\":\"U8\"", "\"files/tokenizer.model\":{\"dtype\":\"I8\"",
     "it must be U8 [bytes]"},
};

std::string sample_bytes(const TempDir& dir) {
  write_sample_engine(dir / "sample.l4e");
  return read_file(dir / "sample.l4e");
}

}  // namespace

TEST(a_sample_with_vision_opens) {
  const TempDir dir;
  write_sample_engine(dir / "sample.l4e", 1, true);
  const EngineFile file(dir / "sample.l4e");
  CHECK(file.config().vision.has_value());
  CHECK_EQ(file.config().vision->tokens_per_tile(), 4);
  const Weight patches = file.weight("vision.patch_embedding");
  CHECK_EQ(patches.n, 8);
  CHECK_EQ(patches.k, file.config().vision->patch_dim());
  CHECK_EQ(file.weight("vision.layers.0.mlp.fc2").group_size, 32);
  const Tensor places = file.tensor("vision.positional_embedding");
  CHECK(places.dtype == DType::kF32 && places.rank == 2);
  CHECK_EQ(places.size(0), 17);
  CHECK_EQ(file.tensor("vision.layers.0.attn.qkv.bias").size(0), 24);
  CHECK_EQ(file.verify(1).size(), size_t(0));
}

// Reductions of the published tower and of small ones that fill neither a line nor a group.
TEST(bf16_and_int8_weights_of_any_width) {
  const TempDir dir;
  for (const int64_t k : {int64_t(147), int64_t(192), int64_t(588), int64_t(1408)}) {
    SCOPE("k = ", k);
    const int64_t n = 19;
    const std::vector<float> values = gaussian(size_t(n * k), uint32_t(k));
    EngineWriter writer(dir / "x.l4e", 1);
    writer.declare_weight("a", weight_shape(WeightKind::kBF16, 1, n, k), false);
    writer.declare_weight("b", weight_shape(WeightKind::kInt8, 1, n, k, 64), false);
    writer.begin();
    for (const char* name : {"a", "b"})
      writer.quantize_rows(name, 0, row_range(0, n), source_of(values, n, k));
    auto metadata = sample_metadata();
    for (auto& [key, value] : metadata)
      if (key == "files") value = "[]";
    writer.finish(metadata);
    const EngineFile file(dir / "x.l4e");
    const Weight a = file.weight("a"), b = file.weight("b");
    for (int64_t row = 0; row < n; ++row)
      for (int64_t column = 0; column < k; ++column) {
        const float value = values[size_t(row * k + column)];
        CHECK_EQ(weight_value(a, row, column), to_float(to_bf16(value)));
        CHECK_CLOSE(weight_value(b, row, column), value, 2e-3);
      }
  }
}

TEST(the_sample_opens_and_says_what_was_written) {
  const TempDir dir;
  write_sample_engine(dir / "sample.l4e");
  const EngineFile file(dir / "sample.l4e");
  CHECK_EQ(file.config().hidden_size, 32);
  CHECK_EQ(file.config().moe_layers[0], true);
  CHECK_EQ(*file.find_metadata("target"), "cpu");
  CHECK_EQ(file.weights().size(), size_t(12));
  CHECK_EQ(file.file_names().size(), size_t(1));
  const auto tokenizer = file.file("tokenizer.model");
  CHECK_EQ(std::string(reinterpret_cast<const char*>(tokenizer.data()), tokenizer.size()), "a tokenizer");
  CHECK_EQ(file.tensor("norm").describe(), "F32 [32]");
  CHECK_EQ(file.tensor("norm").ptr<float>()[31], 1.0f);
  CHECK_EQ(file.verify(2).size(), size_t(0));

  const Weight stack = file.weight("layers.0.moe.gate_up");
  CHECK_EQ(stack.num_experts, 2);
  CHECK_EQ(stack.n, 64);
  CHECK_EQ(stack.group_size, 32);
  CHECK(stack.zeros == nullptr);
  CHECK_EQ(weight_value(expert_view(stack, 1), 15, 0) != 0, true);
  const Weight embed = file.weight("embed");
  CHECK(embed.layout == Layout::kRowMajor);
  CHECK_EQ(embed.n, 40);
  const Weight asymmetric = file.weight("layers.0.attn.o");
  CHECK(asymmetric.scale_dtype == DType::kF32);
  CHECK(asymmetric.zeros != nullptr);
  CHECK_CLOSE(weight_value(asymmetric, 3, 5), ((3 * 32 + 5) * 7 % 16 - 3) * 0.01f, 1e-9);

  const Weight shifted = file.weight("layers.1.attn.o");
  CHECK(shifted.kind == WeightKind::kInt8 && shifted.zeros == nullptr && shifted.factors != nullptr);
  CHECK_EQ(weight_value(shifted, 3, 5), float((3 * 32 + 5) * 7 % 16) * (2 * 0.005f) - 0.25f);
  const Weight looked_up = file.weight("layers.1.attn.qkv");
  CHECK(looked_up.table == kEvenTable);
  CHECK_EQ(weight_value(looked_up, 3, 5),
           float(kEvenTable[(3 * 32 + 5) * 7 % 16]) * to_float(to_bf16(0.01f)));
  CHECK(file.weight("layers.1.mlp.gate_up").kind == WeightKind::kFp8);

  CHECK_THROWS(kEngineFile, file.weight("nothing"));
  CHECK_THROWS(kEngineFile, file.weight("norm"));
  CHECK_THROWS(kEngineFile, file.tensor("nothing"));
  CHECK_THROWS(kEngineFile, file.file("../etc/passwd"));
  for (const StoredTensor& tensor : file.tensors())
    if (tensor.bytes % 64 == 0) CHECK_EQ(reinterpret_cast<uintptr_t>(file.bytes(tensor).data()) % 64, 0u);
}

TEST(not_files) {
  const TempDir dir;
  CHECK_THROWS(kEngineFile, EngineFile(dir / "absent"));
  CHECK_THROWS(kEngineFile, EngineFile(dir / ""));
  write_file(dir / "empty", "");
  CHECK_THROWS(kEngineFile, EngineFile(dir / "empty"));
  CHECK(open_error(dir / "x", std::string("GGUF\3\0\0\0another format", 22)).find("header length is") !=
        std::string::npos);
}

TEST(every_bad_header_is_refused_with_its_reason) {
  const TempDir dir;
  const std::string file = sample_bytes(dir);
  const std::string header = header_text(file);
  CHECK_EQ(open_error(dir / "same", assemble(header, payload(file))), "");
  int number = 0;
  for (const BadHeader& bad : kBadHeaders) {
    SCOPE("row ", number++, ": ", bad.from, " -> ", bad.to);
    std::string changed = header;
    const size_t at = changed.find(bad.from);
    CHECK(at != std::string::npos);
    if (at == std::string::npos) continue;
    changed.replace(at, std::string(bad.from).size(), bad.to);
    const std::string message = open_error(dir / "bad", assemble(changed, payload(file)));
    SCOPE("message: \"", message, "\"");
    CHECK(message.find(bad.expected) != std::string::npos);
    CHECK(message.find(dir / "bad") != std::string::npos);
  }
}

TEST(bad_frames) {
  const TempDir dir;
  const std::string file = sample_bytes(dir), header = header_text(file), data = payload(file);
  const auto message_of = [&](const std::string& bytes) { return open_error(dir / "bad", bytes); };
  const auto contains = [](const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
  };
  CHECK(contains(message_of(file + "x"), "the last tensor ends at"));
  CHECK(contains(message_of(file.substr(0, file.size() - 1)), "payload ends at"));
  std::string huge = file;
  huge[7] = char(0x7f);
  CHECK(contains(message_of(huge), "header length is"));
  std::string unaligned = header + std::string(100, ' ');
  uint64_t length = unaligned.size();
  std::string frame(8, '\0');
  std::memcpy(frame.data(), &length, 8);
  frame += unaligned + data;
  seal(frame);
  CHECK(contains(message_of(frame), "must be a multiple of 4096"));
  // A checksum written with an escape is the same JSON string, but not the same bytes.
  std::string escaped = header;
  const size_t at = escaped.find("\"header_checksum\":\"") + 19;
  escaped.replace(at, 1, "\\u0030");
  CHECK(contains(message_of(assemble(escaped, data)), "header"));
  // A tensor without a checksum.
  std::string unguarded = header;
  const std::string entry = ",\\\"norm\\\":\\\"";
  unguarded.erase(unguarded.find(entry), entry.size() + 16 + 2);
  CHECK(contains(message_of(assemble(unguarded, data)), "checksums: norm is missing"));
  // Deep nesting and very many values end in an error, not in a stack overflow or a full memory.
  CHECK(contains(message_of(assemble("{\"a\":" + std::string(100000, '['), "")), "nested deeper than 64"));
  std::string many = "{\"a\":[0";
  for (int i = 0; i < 1100000; ++i) many += ",0";
  CHECK(contains(message_of(assemble(many + "]}", "")), "JSON values and keys"));
  std::string crowd = "{";
  for (int i = 0; i < 65537; ++i)
    crowd +=
        (i ? ",\"" : "\"") + std::to_string(i) + "\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}";
  CHECK(contains(message_of(assemble(crowd + "}", "")), "more than 65536 tensors"));
}

TEST(each_stored_file_must_be_listed) {
  const TempDir dir;
  EngineWriter writer(dir / "x.l4e", 1);
  for (const char* name : {"files/a", "files/b"}) writer.declare_tensor(name, "U8", {1});
  writer.begin();
  const std::vector<std::byte> byte(1);
  for (const char* name : {"files/a", "files/b"}) writer.write_tensor(name, byte);
  auto metadata = sample_metadata();
  for (auto& [key, value] : metadata)
    if (key == "files") value = R"(["a"])";
  std::string message;
  try {
    writer.finish(metadata);
    EngineFile(dir / "x.l4e");
  } catch (const Error& error) {
    message = error.what();
  }
  CHECK(message.find("files/b is stored but not listed") != std::string::npos);
}

TEST(every_truncation_is_refused) {
  const TempDir dir;
  const std::string path = dir / "sample.l4e";
  const std::string file = sample_bytes(dir);
  for (size_t size = file.size(); size-- > 0;) {
    std::filesystem::resize_file(path, size);
    SCOPE("cut to ", size);
    CHECK_THROWS(kEngineFile, EngineFile(path));
  }
}

TEST(every_bit_of_the_header_is_guarded) {
  const TempDir dir;
  const std::string path = dir / "sample.l4e";
  const std::string file = sample_bytes(dir);
  const size_t header_end = 8 + header_length(file);
  std::fstream stream(path, std::ios::binary | std::ios::in | std::ios::out);
  int opened = 0;
  for (size_t byte = 0; byte < header_end; ++byte) {
    for (int bit = 0; bit < 8; ++bit) {
      stream.seekp(std::streamoff(byte)).put(char(file[byte] ^ (1 << bit))).flush();
      try {
        const EngineFile changed(path);
        ++opened;
      } catch (const Error&) {
      }
    }
    stream.seekp(std::streamoff(byte)).put(file[byte]).flush();
  }
  CHECK_EQ(opened, 0);
  CHECK_EQ(EngineFile(path).verify(1).size(), size_t(0));
}

TEST(every_byte_of_the_payload_is_guarded_by_verify) {
  const TempDir dir;
  const std::string path = dir / "sample.l4e";
  write_sample_engine(path);
  const EngineFile file(path);
  std::fstream stream(path, std::ios::binary | std::ios::in | std::ios::out);
  for (const StoredTensor& tensor : file.tensors()) {
    for (uint64_t byte = tensor.offset; byte < tensor.offset + tensor.bytes; byte += 37) {
      const char good = char(file.bytes(tensor)[byte - tensor.offset]);
      stream.seekp(std::streamoff(byte)).put(char(good ^ (1 << byte % 8))).flush();
      const std::vector<std::string> damaged = file.verify(1);
      CHECK_EQ(damaged.size(), size_t(1));
      if (!damaged.empty()) CHECK_EQ(damaged[0], tensor.name);
      stream.seekp(std::streamoff(byte)).put(good).flush();
    }
  }
}

TEST(an_open_file_is_not_written_over) {
  const TempDir dir;
  const std::string path = dir / "sample.l4e";
  write_sample_engine(path);
  {
    const EngineFile file(path), second(path);  // readers share
    CHECK_THROWS(kInternal, write_sample_engine(path));
    file.check_unchanged();
  }
  write_sample_engine(path);
}

TEST(a_file_cut_after_opening_is_noticed) {
  const TempDir dir;
  const std::string path = dir / "sample.l4e";
  write_sample_engine(path);
  const EngineFile file(path);
  file.check_unchanged();
  std::filesystem::resize_file(path, file.size() - 64);
  CHECK_THROWS(kEngineFile, file.check_unchanged());
  CHECK_THROWS(kEngineFile, file.verify(1));
}

}  // namespace llama4rt::test
