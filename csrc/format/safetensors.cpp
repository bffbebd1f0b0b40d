#include "format/safetensors.h"

#include <algorithm>
#include <array>
#include <tuple>

#include "base/checked_math.h"
#include "base/json.h"

namespace llama4rt {
namespace {

constexpr uint64_t kLengthBytes = 8;
constexpr int64_t kMaxDimension = int64_t(1) << 48;

constexpr std::array<StoredDType, 22> kStoredDTypes = {{
    {"F32", 32, DType::kF32},
    {"BF16", 16, DType::kBF16},
    {"F16", 16, DType::kF16},
    {"I64", 64, DType::kI64},
    {"I32", 32, DType::kI32},
    {"U8", 8, DType::kU8},
    {"I8", 8, DType::kI8},
    {"BOOL", 8, std::nullopt},
    {"F64", 64, std::nullopt},
    {"I16", 16, std::nullopt},
    {"U16", 16, std::nullopt},
    {"U32", 32, std::nullopt},
    {"U64", 64, std::nullopt},
    {"C64", 64, std::nullopt},
    {"F8_E4M3", 8, DType::kF8E4M3},
    {"F8_E5M2", 8, std::nullopt},
    {"F8_E8M0", 8, std::nullopt},
    {"F8_E4M3FNUZ", 8, std::nullopt},
    {"F8_E5M2FNUZ", 8, std::nullopt},
    {"F6_E2M3", 6, std::nullopt},
    {"F6_E3M2", 6, std::nullopt},
    {"F4", 4, std::nullopt},
}};

// Turns the parsed JSON of one tensor entry into a StoredTensor, refusing whatever is odd.
class EntryReader {
 public:
  EntryReader(const std::string& path, ErrorKind kind, uint64_t data_offset, uint64_t data_bytes)
      : path_(path), kind_(kind), data_offset_(data_offset), data_bytes_(data_bytes) {}

  StoredTensor read(const std::string& name, const json::Value& entry) const {
    if (name.empty() || name.size() > kMaxTensorNameBytes)
      fail(name,
           error_text("the name has ", name.size(), " bytes; 1..", kMaxTensorNameBytes, " are allowed"));
    if (!entry.object())
      fail(name, error_text("the entry is ", json::type_name(entry.type()), "; it must be an object"));
    for (const auto& [key, value] : *entry.object())
      if (key != "dtype" && key != "shape" && key != "data_offsets")
        fail(name, error_text("unknown field \"", json::printable(key), "\""));

    StoredTensor tensor;
    tensor.name = name;
    const std::string* dtype = member(name, entry, "dtype").string();
    if (!dtype) fail(name, "dtype must be a string");
    tensor.dtype = find_stored_dtype(*dtype);
    if (!tensor.dtype) fail(name, error_text("unknown dtype \"", json::printable(*dtype), "\""));
    const uint64_t shape_bytes = read_shape(tensor, member(name, entry, "shape"));
    read_offsets(tensor, member(name, entry, "data_offsets"));
    if (tensor.bytes != shape_bytes)
      fail(name, error_text(tensor.describe(), " needs ", shape_bytes, " bytes, but data_offsets give ",
                            tensor.bytes));
    return tensor;
  }

 private:
  [[noreturn]] void fail(const std::string& name, const std::string& problem) const {
    throw Error(kind_, error_text(path_, ": ", json::printable(name), ": ", problem));
  }

  const json::Value& member(const std::string& name, const json::Value& entry, const char* key) const {
    const json::Value* value = entry.find(key);
    if (!value) fail(name, error_text(key, " is missing"));
    return *value;
  }

  // Fills tensor.shape and returns the bytes it implies.
  uint64_t read_shape(StoredTensor& tensor, const json::Value& value) const {
    const json::Array* dims = value.array();
    if (!dims || dims->size() > kMaxTensorRank)
      fail(tensor.name, error_text("shape must be a list of at most ", kMaxTensorRank, " dimensions"));
    uint64_t elements = 1;
    for (const json::Value& dim : *dims) {
      const json::Number* number = dim.number();
      if (!number || !number->is_integer || number->integer < 0 || number->integer > kMaxDimension)
        fail(tensor.name,
             error_text("shape[", tensor.shape.size(), "] must be an integer in 0..", kMaxDimension));
      tensor.shape.push_back(number->integer);
      const auto product = checked_mul(elements, uint64_t(number->integer));
      if (!product) fail(tensor.name, "the product of the shape overflows 64 bits");
      elements = *product;
    }
    const auto bits = checked_mul(elements, uint64_t(tensor.dtype->bits));
    if (!bits) fail(tensor.name, "the size in bits overflows 64 bits");
    if (*bits % 8 != 0) fail(tensor.name, error_text(tensor.describe(), " does not fill whole bytes"));
    return *bits / 8;
  }

  void read_offsets(StoredTensor& tensor, const json::Value& value) const {
    const json::Array* pair = value.array();
    if (!pair || pair->size() != 2) fail(tensor.name, "data_offsets must be a list of two integers");
    uint64_t ends[2];
    for (size_t i = 0; i < 2; ++i) {
      const json::Number* number = (*pair)[i].number();
      if (!number || !number->is_integer || number->integer < 0)
        fail(tensor.name, error_text("data_offsets[", i, "] must be an integer >= 0"));
      ends[i] = uint64_t(number->integer);
    }
    if (ends[0] > ends[1])
      fail(tensor.name, error_text("data_offsets run backwards: ", ends[0], " to ", ends[1]));
    if (ends[1] > data_bytes_)
      fail(tensor.name, error_text("payload ends at ", ends[1], " but the file has ", data_bytes_,
                                   " bytes after its header"));
    tensor.offset = data_offset_ + ends[0];
    tensor.bytes = ends[1] - ends[0];
  }

  const std::string& path_;
  ErrorKind kind_;
  uint64_t data_offset_;
  uint64_t data_bytes_;
};

uint64_t read_header_length(std::span<const std::byte> file, const std::string& path, ErrorKind kind,
                            uint64_t max_header_bytes) {
  if (file.size() < kLengthBytes)
    throw Error(kind, error_text(path, ": the file has ", file.size(),
                                 " bytes; a safetensors file begins with an 8-byte header length"));
  uint64_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) length |= uint64_t(file[i]) << (8 * i);
  if (length > max_header_bytes)
    throw Error(kind, error_text(path, ": the header length is ", length, " bytes; at most ",
                                 max_header_bytes, " are allowed (is this a safetensors file?)"));
  if (length > file.size() - kLengthBytes)
    throw Error(kind, error_text(path, ": the header ends at ", kLengthBytes + length, " but the file has ",
                                 file.size(), " bytes (cut short?)"));
  return length;
}

}  // namespace

const StoredDType* find_stored_dtype(std::string_view name) {
  for (const StoredDType& dtype : kStoredDTypes)
    if (dtype.name == name) return &dtype;
  return nullptr;
}

std::string StoredTensor::describe() const {
  std::string text(dtype->name);
  text += " [";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

SafetensorsHeader::SafetensorsHeader(std::span<const std::byte> file, const std::string& path, ErrorKind kind,
                                     const SafetensorsLimits& limits) {
  const uint64_t length = read_header_length(file, path, kind, limits.max_header_bytes);
  data_offset_ = kLengthBytes + length;
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + kLengthBytes, length);
  if (text.empty() || text[0] != '{')  // anything else before it would let two formats share one file
    throw Error(kind, error_text(path, ": the header must begin with \"{\" (is this a safetensors file?)"));
  const json::Value document =
      json::parse(text, kind, path + ": header", {.max_bytes = length, .max_values = limits.max_values});

  const EntryReader reader(path, kind, data_offset_, file.size() - data_offset_);
  for (const auto& [name, entry] : *document.object()) {
    if (name != "__metadata__") {
      if (tensors_.size() == limits.max_tensors)
        throw Error(kind, error_text(path, ": more than ", limits.max_tensors, " tensors"));
      tensors_.push_back(reader.read(name, entry));
      continue;
    }
    if (!entry.object())
      throw Error(kind, error_text(path, ": __metadata__ is ", json::type_name(entry.type()),
                                   "; it must be an object"));
    for (const auto& [key, value] : *entry.object()) {
      if (!value.string())
        throw Error(kind, error_text(path, ": __metadata__: \"", json::printable(key), "\" is ",
                                     json::type_name(value.type()), "; it must be a string"));
      metadata_.emplace_back(key, *value.string());
      metadata_offsets_.push_back(kLengthBytes + value.offset() + 1);
    }
  }

  std::sort(tensors_.begin(), tensors_.end(), [](const StoredTensor& a, const StoredTensor& b) {
    return std::tie(a.offset, a.bytes, a.name) < std::tie(b.offset, b.bytes, b.name);
  });
  uint64_t end = data_offset_;
  for (const StoredTensor& tensor : tensors_) {
    if (tensor.offset != end)
      throw Error(kind,
                  error_text(path, ": ", json::printable(tensor.name), ": payload begins at ",
                             tensor.offset - data_offset_, ", ",
                             tensor.offset > end ? "leaving a hole after " : "overlapping what ends at ",
                             end - data_offset_));
    end = tensor.offset + tensor.bytes;
  }
  if (end != file.size())
    throw Error(kind, error_text(path, ": the last tensor ends at ", end, " but the file has ", file.size(),
                                 " bytes"));
  index_.reserve(tensors_.size());
  for (size_t i = 0; i < tensors_.size(); ++i) index_.emplace(tensors_[i].name, i);
}

const StoredTensor* SafetensorsHeader::find(std::string_view name) const {
  const auto at = index_.find(name);
  return at == index_.end() ? nullptr : &tensors_[at->second];
}

const std::string* SafetensorsHeader::find_metadata(std::string_view key) const {
  for (const auto& [name, value] : metadata_)
    if (name == key) return &value;
  return nullptr;
}

uint64_t SafetensorsHeader::metadata_text_offset(std::string_view key) const {
  for (size_t i = 0; i < metadata_.size(); ++i)
    if (metadata_[i].first == key) return metadata_offsets_[i];
  return 0;
}

SafetensorsFile::SafetensorsFile(const std::string& path)
    : file_(path, ErrorKind::kCheckpoint),
      header_(file_.bytes(), path, ErrorKind::kCheckpoint, SafetensorsLimits{}) {}

const StoredTensor& SafetensorsFile::tensor(std::string_view name) const {
  const StoredTensor* tensor = header_.find(name);
  LLAMA4RT_CHECK(kCheckpoint, tensor != nullptr, path(), ": there is no tensor \"", json::printable(name),
                 "\"");
  return *tensor;
}

void SafetensorsFile::release(const StoredTensor& tensor) const {
  file_.advise(tensor.offset, tensor.bytes, Advice::kDontNeed);
}

}  // namespace llama4rt
