// The safetensors container: an 8-byte little-endian header length, a JSON header, then the tensors' bytes.
// This reader is stricter than the format asks for and is used both for checkpoints and for engine files
// (which are safetensors files). It validates names, dtypes, shapes and offsets and hands out byte ranges; it
// knows nothing of what the tensors mean and never reads their payload.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/dtype.h"
#include "base/error.h"
#include "base/mapped_file.h"

namespace llama4rt {

// Element types a safetensors header may name, including those llama4rt does not compute with, so that any
// checkpoint can be listed.
struct StoredDType {
  std::string_view name;
  int bits = 0;
  std::optional<DType> dtype;  // empty: can be listed and copied, not computed with
};
// Null for an unknown name.
const StoredDType* find_stored_dtype(std::string_view name);

struct StoredTensor {
  std::string name;
  const StoredDType* dtype = nullptr;
  std::vector<int64_t> shape;
  uint64_t offset = 0;  // absolute, from the start of the file
  uint64_t bytes = 0;

  std::string describe() const;  // "U8 [16, 4, 64]"
};

struct SafetensorsLimits {
  uint64_t max_header_bytes = 100'000'000;  // the limit of the safetensors library itself
  size_t max_tensors = 65'536;
  size_t max_values = size_t(4) << 20;
};

inline constexpr size_t kMaxTensorNameBytes = 256;
inline constexpr size_t kMaxTensorRank = 8;

class SafetensorsHeader {
 public:
  // Validates the header of `file`, which must be the whole file. Throws Error(kind) naming `path`, the
  // tensor or field, what was found and what is allowed. On success the tensors' ranges cover the file from
  // the end of the header to the end of the file exactly: no hole, no overlap.
  SafetensorsHeader(std::span<const std::byte> file, const std::string& path, ErrorKind kind,
                    const SafetensorsLimits& limits);

  SafetensorsHeader(const SafetensorsHeader&) = delete;  // index_ points into tensors_
  SafetensorsHeader& operator=(const SafetensorsHeader&) = delete;

  const std::vector<StoredTensor>& tensors() const { return tensors_; }  // by offset
  const StoredTensor* find(std::string_view name) const;                 // null when there is none
  const std::vector<std::pair<std::string, std::string>>& metadata() const { return metadata_; }
  const std::string* find_metadata(std::string_view key) const;
  // Offset in the file of the characters of a metadata value (after its opening quote).
  uint64_t metadata_text_offset(std::string_view key) const;
  uint64_t data_offset() const { return data_offset_; }

 private:
  std::vector<StoredTensor> tensors_;
  std::unordered_map<std::string_view, size_t> index_;  // name -> position in tensors_
  std::vector<std::pair<std::string, std::string>> metadata_;
  std::vector<uint64_t> metadata_offsets_;
  uint64_t data_offset_ = 0;
};

// A checkpoint shard: mapped and validated.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);  // throws kCheckpoint

  const SafetensorsHeader& header() const { return header_; }
  const StoredTensor& tensor(std::string_view name) const;  // throws kCheckpoint when there is none
  std::span<const std::byte> bytes(const StoredTensor& tensor) const {
    return file_.bytes().subspan(tensor.offset, tensor.bytes);
  }
  // The pages of this tensor are no longer needed by this process.
  void release(const StoredTensor& tensor) const;
  const std::string& path() const { return file_.path(); }

 private:
  MappedFile file_;
  SafetensorsHeader header_;
};

}  // namespace llama4rt
