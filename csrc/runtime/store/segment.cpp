#include "runtime/store/segment.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/checked_math.h"
#include "base/error.h"
#include "base/xxhash.h"

namespace llama4rt {
namespace {

constexpr char kSegmentMagic[8] = {'l', '4', 'k', 'v', 's', 'e', 'g', '1'};
constexpr char kIndexMagic[8] = {'l', '4', 'k', 'v', 'i', 'd', 'x', '1'};
constexpr uint32_t kRecordMagic = 0x6b6c6234;  // "4blk"
constexpr uint32_t kMaxTextBytes = 1 << 20;
constexpr uint64_t kAlignment = 8;  // of records

struct SegmentHeader {
  char magic[8];
  uint8_t identity[32];
  int64_t block_bytes[2];
  int32_t block_size;
  uint8_t reserved[60];
  uint64_t checksum;  // of all before it
};
static_assert(sizeof(SegmentHeader) == kSegmentHeaderBytes);

struct RecordHeader {
  uint32_t magic;
  uint32_t group;
  uint64_t text_bytes;
  uint64_t payload_bytes;
  uint64_t payload_checksum;
  uint8_t key[32];
  uint8_t parent[32];
  uint64_t checksum;  // of all before it, then of the text
};
static_assert(sizeof(RecordHeader) == 104);

struct IndexHeader {
  char magic[8];
  uint64_t segment_bytes;
  uint64_t count;
  uint64_t checksum;  // of the entries
};
struct IndexEntry {
  uint8_t key[32];
  uint64_t offset, bytes;
  uint64_t group;
};

[[noreturn]] void fail(const std::string& path, const char* what) {
  throw Error(ErrorKind::kInternal, error_text(path, ": ", what, ": ", std::strerror(errno)));
}

// False at the end of the file, and on errors.
bool read_all(int fd, void* data, uint64_t bytes, uint64_t offset) {
  auto* p = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t n = pread(fd, p, bytes, off_t(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    p += n;
    bytes -= uint64_t(n);
    offset += uint64_t(n);
  }
  return true;
}

// False with errno set.
bool write_all(int fd, std::span<iovec> parts, uint64_t offset) {
  while (!parts.empty()) {
    if (parts[0].iov_len == 0) {
      parts = parts.subspan(1);
      continue;
    }
    const ssize_t n = pwritev(fd, parts.data(), int(parts.size()), off_t(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n == 0) errno = ENOSPC;
    if (n <= 0) return false;
    offset += uint64_t(n);
    for (auto left = size_t(n); left > 0 && !parts.empty();) {
      const size_t take = std::min(left, parts[0].iov_len);
      parts[0].iov_base = static_cast<char*>(parts[0].iov_base) + take;
      parts[0].iov_len -= take;
      left -= take;
      if (parts[0].iov_len == 0) parts = parts.subspan(1);
    }
  }
  return true;
}

iovec part(const void* data, size_t bytes) { return {const_cast<void*>(data), bytes}; }

SegmentHeader segment_header(const StoreShape& shape) {
  SegmentHeader header = {};
  std::memcpy(header.magic, kSegmentMagic, sizeof header.magic);
  std::memcpy(header.identity, shape.identity.data(), shape.identity.size());
  std::copy(shape.bytes, shape.bytes + 2, header.block_bytes);
  header.block_size = shape.block_size;
  header.checksum = xxh64(&header, offsetof(SegmentHeader, checksum));
  return header;
}

uint64_t record_checksum(const RecordHeader& header, const void* text) {
  Xxh64 hash;
  hash.update(&header, offsetof(RecordHeader, checksum));
  hash.update(text, header.text_bytes);
  return hash.digest();
}

uint64_t padded(uint64_t bytes) { return round_up(bytes, kAlignment); }

// A record header and its text, as far as sizes and checksum say that it is one.
bool read_header(int fd, const StoreShape& shape, uint64_t offset, uint64_t file_bytes, RecordHeader& header,
                 std::string& text) {
  if (offset + sizeof header > file_bytes || !read_all(fd, &header, sizeof header, offset)) return false;
  if (header.magic != kRecordMagic || header.group > 1 || header.text_bytes > kMaxTextBytes ||
      header.payload_bytes != uint64_t(shape.bytes[header.group]) || header.payload_bytes == 0)
    return false;
  if (offset + padded(sizeof header + header.text_bytes + header.payload_bytes) > file_bytes) return false;
  text.resize(header.text_bytes);
  return read_all(fd, text.data(), text.size(), offset + sizeof header) &&
         header.checksum == record_checksum(header, text.data());
}

std::optional<uint64_t> file_bytes(int fd) {
  struct stat status;
  if (fstat(fd, &status) != 0 || status.st_size < 0) return std::nullopt;
  return uint64_t(status.st_size);
}

RecordPlace place_of(const RecordHeader& header, uint64_t offset) {
  RecordPlace place;
  std::memcpy(place.key.data(), header.key, sizeof header.key);
  place.group = StoreGroup(header.group);
  place.offset = offset;
  place.bytes = padded(sizeof header + header.text_bytes + header.payload_bytes);
  return place;
}

}  // namespace

void Fd::reset() {
  if (fd_ >= 0) {
    flock(fd_,
          LOCK_UN);  // not left to close(): a forked child has the same open file and would keep the lock
    close(fd_);
  }
  fd_ = -1;
}

uint64_t record_bytes(const BlockName& name, uint64_t payload_bytes) {
  return padded(sizeof(RecordHeader) + name.text.size() + payload_bytes);
}

SegmentWriter::SegmentWriter(const std::string& path, const StoreShape& shape) : path_(path) {
  fd_ = Fd(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd_) fail(path_, "cannot be created");
  if (flock(fd_.get(), LOCK_EX | LOCK_NB) != 0) fail(path_, "cannot be locked");
  const SegmentHeader header = segment_header(shape);
  iovec parts[] = {part(&header, sizeof header)};
  if (!write_all(fd_.get(), parts, 0)) fail(path_, "cannot be written");
  end_ = sizeof header;
}

RecordPlace SegmentWriter::append(const BlockName& name, std::span<const std::byte> payload) {
  RecordHeader header = {};
  header.magic = kRecordMagic;
  header.group = uint32_t(name.group);
  header.text_bytes = name.text.size();
  header.payload_bytes = payload.size();
  header.payload_checksum = xxh64(payload.data(), payload.size());
  std::memcpy(header.key, name.key.data(), name.key.size());
  std::memcpy(header.parent, name.parent.data(), name.parent.size());
  header.checksum = record_checksum(header, name.text.data());
  RecordPlace place = place_of(header, end_);
  const char zeros[kAlignment] = {};
  iovec parts[] = {part(&header, sizeof header), part(name.text.data(), name.text.size()),
                   part(payload.data(), payload.size()),
                   part(zeros, place.bytes - sizeof header - name.text.size() - payload.size())};
  if (!write_all(fd_.get(), parts, end_)) {
    const int error = errno;
    static_cast<void>(ftruncate(fd_.get(), off_t(end_)) ==
                      0);  // what is half written is no record either way
    errno = error;
    fail(path_, "cannot be written");
  }
  end_ += place.bytes;
  records_.push_back(place);
  return place;
}

void SegmentWriter::sync() const {
  if (fdatasync(fd_.get()) != 0) fail(path_, "cannot be flushed");
}

void SegmentWriter::seal() {
  sync();
  std::vector<IndexEntry> entries(records_.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    std::memcpy(entries[i].key, records_[i].key.data(), sizeof entries[i].key);
    entries[i].offset = records_[i].offset;
    entries[i].bytes = records_[i].bytes;
    entries[i].group = uint64_t(records_[i].group);
  }
  const size_t bytes = entries.size() * sizeof(IndexEntry);
  IndexHeader header = {};
  std::memcpy(header.magic, kIndexMagic, sizeof header.magic);
  header.segment_bytes = end_;
  header.count = entries.size();
  header.checksum = xxh64(entries.data(), bytes);
  const std::string path = path_ + ".idx", temporary = path + ".tmp";
  Fd fd(open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  iovec parts[] = {part(&header, sizeof header), part(entries.data(), bytes)};
  if (!fd || !write_all(fd.get(), parts, 0) || fdatasync(fd.get()) != 0 ||
      rename(temporary.c_str(), path.c_str()) != 0) {
    const int error = errno;
    unlink(temporary.c_str());
    errno = error;
    fail(path, "cannot be written");
  }
}

bool is_segment_of(int fd, const StoreShape& shape) {
  SegmentHeader header;
  const SegmentHeader expected = segment_header(shape);
  return read_all(fd, &header, sizeof header, 0) && std::memcmp(&header, &expected, sizeof header) == 0;
}

uint64_t scan_segment(int fd, const StoreShape& shape, uint64_t offset,
                      const std::function<void(const RecordPlace&)>& found) {
  offset = std::max(offset, kSegmentHeaderBytes);
  const uint64_t end = file_bytes(fd).value_or(0);
  RecordHeader header;
  std::string text;
  while (read_header(fd, shape, offset, end, header, text)) {
    const RecordPlace place = place_of(header, offset);
    found(place);
    offset += place.bytes;
  }
  return offset;
}

std::optional<std::vector<RecordPlace>> read_segment_index(const std::string& segment_path,
                                                           uint64_t segment_bytes) {
  const Fd fd(open((segment_path + ".idx").c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) return std::nullopt;
  IndexHeader header;
  const uint64_t bytes = file_bytes(fd.get()).value_or(0);
  if (bytes < sizeof header || !read_all(fd.get(), &header, sizeof header, 0) ||
      std::memcmp(header.magic, kIndexMagic, sizeof kIndexMagic) != 0 ||
      header.segment_bytes != segment_bytes || (bytes - sizeof header) % sizeof(IndexEntry) != 0 ||
      (bytes - sizeof header) / sizeof(IndexEntry) != header.count)
    return std::nullopt;
  std::vector<IndexEntry> entries(header.count);
  const size_t size = entries.size() * sizeof(IndexEntry);
  if (!read_all(fd.get(), entries.data(), size, sizeof header) ||
      xxh64(entries.data(), size) != header.checksum)
    return std::nullopt;
  std::vector<RecordPlace> places;
  for (const IndexEntry& entry : entries) {
    if (entry.group > 1 || entry.offset > segment_bytes || entry.bytes > segment_bytes - entry.offset)
      return std::nullopt;
    RecordPlace& place = places.emplace_back();
    std::memcpy(place.key.data(), entry.key, sizeof entry.key);
    place.group = StoreGroup(entry.group);
    place.offset = entry.offset;
    place.bytes = entry.bytes;
  }
  return places;
}

std::vector<std::byte> read_record(int fd, const RecordPlace& place, const BlockName& name,
                                   const StoreShape& shape, std::string& problem) {
  RecordHeader header;
  std::string text;
  if (!read_header(fd, shape, place.offset, file_bytes(fd).value_or(0), header, text)) {
    problem = "its record is damaged or cut off";
    return {};
  }
  // Compared, not only hashed: what a record says of itself decides, wherever it was found.
  if (text != name.text || std::memcmp(header.parent, name.parent.data(), name.parent.size()) != 0 ||
      header.group != uint32_t(name.group)) {
    problem = "its record is that of other tokens";
    return {};
  }
  std::vector<std::byte> payload(header.payload_bytes);
  if (!read_all(fd, payload.data(), payload.size(), place.offset + sizeof header + text.size())) {
    problem = error_text("it cannot be read: ", std::strerror(errno));
    return {};
  }
  if (xxh64(payload.data(), payload.size()) != header.payload_checksum) {
    problem = "its bytes do not have their checksum";
    return {};
  }
  return payload;
}

}  // namespace llama4rt
