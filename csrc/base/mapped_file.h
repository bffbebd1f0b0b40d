// MappedFile: a regular file mapped read-only, closed by its destructor. It knows nothing of what the bytes
// mean. A file must be replaced by rename, never rewritten in place: a mapping shows what is written later, and
// one of a file that is cut short raises SIGBUS, which no signal handler is installed to hide. Three things
// guard against that: share_lock() keeps this library's own writers away, check_unchanged() notices every
// other writer before what it wrote is served, and a file replaced by rename stays as it was for who has it open.
#pragma once

#include <cstddef>
#include <ctime>
#include <span>
#include <string>

#include "base/error.h"

namespace llama4rt {

enum class Advice {
  kWillNeed,    // read ahead
  kSequential,  // read ahead far, drop early
  kRandom,      // no read-ahead
  kDontNeed,    // drop the pages from this process; they come back from the file when touched
  kHugePages,   // back by huge pages where the file system can
};

class MappedFile {
 public:
  // Throws Error(kind), naming the path, when it is missing, not a regular file, empty or not readable.
  MappedFile(const std::string& path, ErrorKind kind);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  size_t size() const { return size_; }
  const std::string& path() const { return path_; }

  // Advice is a hint: what the kernel does not support is ignored. The range is widened to whole pages.
  void advise(size_t offset, size_t bytes, Advice advice) const;
  // Says to writers that take the lock (base/output_file.h) that the file is in use, until this is destroyed.
  // Where a file system has no locks there is none, and nothing is said.
  void share_lock() const;
  // Throws Error(kind) when the file was written to since it was mapped: another size, or another time of
  // modification. Costs one fstat.
  void check_unchanged() const;
  // The size alone: what must hold for every byte of bytes() to be readable.
  void check_size() const;

 private:
  std::string path_;
  ErrorKind kind_;
  int fd_ = -1;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  timespec modified_{};
};

}  // namespace llama4rt
