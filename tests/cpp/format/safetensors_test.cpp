#include "format/safetensors.h"

#include <cstring>
#include <string>
#include <vector>

#include "base/temp_dir.h"
#include "test.h"

namespace llama4rt::test {
namespace {

std::string container(const std::string& header, size_t payload) {
  std::string file(8, '\0');
  const uint64_t length = header.size();
  std::memcpy(file.data(), &length, 8);
  return file + header + std::string(payload, 'p');
}

std::string error_of(const std::string& file) {
  try {
    const SafetensorsHeader header(std::as_bytes(std::span(file)), "shard", ErrorKind::kCheckpoint, {});
  } catch (const Error& error) {
    return error.kind() == ErrorKind::kCheckpoint ? error.what() : "wrong kind";
  }
  return "";
}

}  // namespace

TEST(a_checkpoint_of_foreign_types_can_be_listed) {
  const TempDir dir;
  write_file(dir / "m.safetensors",
             container(R"({"f8":{"dtype":"F8_E4M3","shape":[2,3],"data_offsets":[16,22]},)"
                       R"("d":{"dtype":"F64","shape":[2],"data_offsets":[0,16]},)"
                       R"("f4":{"dtype":"F4","shape":[4],"data_offsets":[22,24]},)"
                       R"("none":{"dtype":"BOOL","shape":[0,5],"data_offsets":[16,16]},)"
                       R"("scalar":{"dtype":"BF16","shape":[],"data_offsets":[24,26]},)"
                       R"("__metadata__":{"format":"pt"}}   )",
                       26));
  const SafetensorsFile file(dir / "m.safetensors");
  CHECK_EQ(file.header().tensors().size(), size_t(5));
  CHECK_EQ(file.header().tensors()[0].name, "d");
  CHECK_EQ(file.tensor("f8").describe(), "F8_E4M3 [2, 3]");
  CHECK(file.tensor("f8").dtype->dtype == DType::kF8E4M3);
  CHECK_EQ(file.tensor("scalar").bytes, 2u);
  CHECK_EQ(file.bytes(file.tensor("f8")).size(), size_t(6));
  CHECK_EQ(*file.header().find_metadata("format"), "pt");
  CHECK(file.header().find("x") == nullptr);
  CHECK_THROWS(kCheckpoint, file.tensor("x"));
  file.release(file.tensor("d"));
  CHECK_EQ(char(file.bytes(file.tensor("d"))[0]), 'p');
}

TEST(bad_checkpoints) {
  const struct {
    std::string file;
    const char* expected;
  } kBad[] = {
      {"", "begins with an 8-byte header length"},
      {"1234567", "the file has 7 bytes"},
      {container("{}", 0).substr(0, 9), "the header ends at 10 but the file has 9"},
      {container("", 0), "must begin with"},
      {container(" {}", 0), "must begin with"},
      {container("{}", 1), "the last tensor ends at 10 but the file has 11"},
      {std::string(8, '\xff') + "{}", "at most 100000000 are allowed"},
      {container(R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}})", 1), "does not fill whole bytes"},
      {container(
           R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})",
           6),
       "b: payload begins at 2, overlapping what ends at 4"},
      {container(
           R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
           4),
       "b: payload begins at 0, overlapping"},
      {container(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}})", 8),
       "needs 4 bytes, but data_offsets give 8"},
      {container(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8), "leaving a hole after 0"},
      {container(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}})", 4),
       "unknown field \"x\""},
      {container(R"({"__metadata__":[]})", 0), "__metadata__ is a list"},
      {container(R"({"__metadata__":{"a":{}}})", 0), "\"a\" is an object; it must be a string"},
  };
  for (const auto& bad : kBad) {
    SCOPE(error_of(bad.file));
    CHECK(error_of(bad.file).find(bad.expected) != std::string::npos);
  }
  CHECK_EQ(error_of(container("{}", 0)), "");
}

TEST(every_prefix_is_refused) {
  const std::string file = container(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})", 16);
  CHECK_EQ(error_of(file), "");
  for (size_t size = 0; size < file.size(); ++size) CHECK(!error_of(file.substr(0, size)).empty());
}

}  // namespace llama4rt::test
