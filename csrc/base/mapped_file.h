// MappedFile: a regular file mapped read-only, closed by its destructor. It knows nothing of what the bytes
// mean. A file must be replaced by rename, never rewritten in place: a mapping of a file that is cut short
// later raises SIGBUS, and no signal handler is installed to hide that; check_unchanged() notices it before
// serving.
#pragma once

#include <cstddef>
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
  // Throws Error(kind) when the file's size is no longer what was mapped.
  void check_unchanged() const;

 private:
  std::string path_;
  ErrorKind kind_;
  int fd_ = -1;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace llama4rt
