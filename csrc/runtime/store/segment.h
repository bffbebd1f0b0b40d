// Segments: the files of a KvStore. A segment begins with a header that says whose blocks it holds, and then has
// records, one a block and layer group, each complete in itself: names, the tokens in words, the bytes, checksums of
// both. A segment has one writer, which only appends; what a killed writer left half written is no record. A complete
// segment has an index beside it, `NAME.idx`, which only spares reading all of its record headers.
// docs/sessions.md describes the bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/store/block_key.h"

namespace llama4rt {

enum class StoreGroup : uint8_t { kGlobal = 0, kLocal = 1 };

// Whose blocks they are. Blocks of another shape are another model's, and never read.
struct StoreShape {
  BlockKey identity{};  // of everything that decides the bits: the root of all chains
  int32_t block_size = 0;
  int64_t bytes[2] = {0, 0};  // of a block, by StoreGroup; 0: the model has no such layers

  int64_t bytes_of(StoreGroup group) const { return bytes[size_t(group)]; }
};

// A block as a record names it.
struct BlockName {
  BlockKey key{}, parent{};
  std::string text;  // block_text()
  StoreGroup group = StoreGroup::kGlobal;
};

// Where a record lies.
struct RecordPlace {
  BlockKey key{};
  StoreGroup group = StoreGroup::kGlobal;
  uint64_t offset = 0, bytes = 0;  // of the whole record in the file
};

// An open file; -1 where there is none.
class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  ~Fd() { reset(); }
  Fd(Fd&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = other.fd_;
      other.fd_ = -1;
    }
    return *this;
  }
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  void reset();

 private:
  int fd_;
};

uint64_t record_bytes(const BlockName& name, uint64_t payload_bytes);

// Appends records. Throws kInternal with the system's words; what was written before stays readable.
class SegmentWriter {
 public:
  // Creates the file, which must not be there, and locks it until the writer's end.
  SegmentWriter(const std::string& path, const StoreShape& shape);
  SegmentWriter(SegmentWriter&&) = default;
  SegmentWriter& operator=(SegmentWriter&&) = default;

  RecordPlace append(const BlockName& name, std::span<const std::byte> payload);
  // Writes what the system still holds, to survive a crash of the machine.
  void sync() const;
  // No record follows: writes the index.
  void seal();

  const std::string& path() const { return path_; }
  uint64_t bytes() const { return end_; }

 private:
  std::string path_;
  Fd fd_;
  uint64_t end_ = 0;
  std::vector<RecordPlace> records_;
};

// Whether the file is a segment of this shape, and readable.
bool is_segment_of(int fd, const StoreShape& shape);
constexpr uint64_t kSegmentHeaderBytes = 128;

// The records from `offset` on, until one is not whole; returns where that is. offset 0: from the first.
uint64_t scan_segment(int fd, const StoreShape& shape, uint64_t offset,
                      const std::function<void(const RecordPlace&)>& found);
// The records of a sealed segment of so many bytes, out of its index; none: there is no such index.
std::optional<std::vector<RecordPlace>> read_segment_index(const std::string& segment_path,
                                                           uint64_t segment_bytes);

// The bytes of the block at this place. Empty, with the reason, when it is not the block of this name, or damaged.
std::vector<std::byte> read_record(int fd, const RecordPlace& place, const BlockName& name,
                                   const StoreShape& shape, std::string& problem);

}  // namespace llama4rt
