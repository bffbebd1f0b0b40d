#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace llama4rt {
namespace {

// A writer holds its lock for a moment while it asks whether the file is in use.
constexpr int kLockTries = 20;
constexpr timespec kLockPause{.tv_sec = 0, .tv_nsec = 5'000'000};

int advice_flag(Advice advice) {
  switch (advice) {
    case Advice::kWillNeed:
      return MADV_WILLNEED;
    case Advice::kSequential:
      return MADV_SEQUENTIAL;
    case Advice::kRandom:
      return MADV_RANDOM;
    case Advice::kDontNeed:
      return MADV_DONTNEED;
    case Advice::kHugePages:
      return MADV_HUGEPAGE;
  }
  return MADV_NORMAL;
}

}  // namespace

MappedFile::MappedFile(const std::string& path, ErrorKind kind) : path_(path), kind_(kind) {
  // O_NONBLOCK: opening a named pipe must not wait for a writer; it has no effect on regular files.
  fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd_ < 0) throw Error(kind, error_text(path, ": cannot be opened: ", std::strerror(errno)));
  try {
    struct stat info{};
    if (fstat(fd_, &info) != 0)
      throw Error(kind, error_text(path, ": cannot be examined: ", std::strerror(errno)));
    if (!S_ISREG(info.st_mode)) throw Error(kind, error_text(path, ": not a regular file"));
    if (info.st_size == 0) throw Error(kind, error_text(path, ": the file is empty"));
    size_ = size_t(info.st_size);
    modified_ = info.st_mtim;
    void* const p = mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd_, 0);
    if (p == MAP_FAILED)
      throw Error(kind, error_text(path, ": cannot be mapped (", size_, " bytes): ", std::strerror(errno)));
    data_ = static_cast<const std::byte*>(p);
  } catch (...) {
    close(fd_);
    throw;
  }
}

MappedFile::~MappedFile() {
  munmap(const_cast<std::byte*>(data_), size_);
  close(fd_);
}

void MappedFile::advise(size_t offset, size_t bytes, Advice advice) const {
  if (offset >= size_ || bytes == 0) return;
  const size_t page = size_t(sysconf(_SC_PAGESIZE));
  const size_t begin = offset / page * page;
  const size_t end = offset + std::min(bytes, size_ - offset);
  madvise(const_cast<std::byte*>(data_) + begin, end - begin, advice_flag(advice));
}

void MappedFile::share_lock() const {
  for (int i = 0; i < kLockTries && flock(fd_, LOCK_SH | LOCK_NB) != 0; ++i) {
    if (errno != EWOULDBLOCK) return;
    nanosleep(&kLockPause, nullptr);
  }
}

void MappedFile::check_unchanged() const {
  check_size();
  struct stat info{};
  if (fstat(fd_, &info) != 0)
    throw Error(kind_, error_text(path_, ": cannot be examined: ", std::strerror(errno)));
  if (info.st_mtim.tv_sec != modified_.tv_sec || info.st_mtim.tv_nsec != modified_.tv_nsec)
    throw Error(kind_, error_text(path_,
                                  ": the file has been written to since it was opened; open it again, "
                                  "and replace engine files by rename, never in place"));
}

void MappedFile::check_size() const {
  struct stat info{};
  if (fstat(fd_, &info) != 0)
    throw Error(kind_, error_text(path_, ": cannot be examined: ", std::strerror(errno)));
  if (size_t(info.st_size) != size_)
    throw Error(kind_, error_text(path_, ": the file had ", size_, " bytes when it was opened and has ",
                                  info.st_size, " now; replace engine files by rename, never in place"));
}

}  // namespace llama4rt
