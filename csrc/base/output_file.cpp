#include "base/output_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace llama4rt {
namespace {

constexpr uint64_t kIoChunk = uint64_t(64) << 20;

[[noreturn]] void fail(const std::string& what, int code) {
  throw Error(ErrorKind::kInternal, error_text(what, ": ", std::strerror(code)));
}

}  // namespace

OutputFile::OutputFile(const std::string& path, uint64_t size) : path_(path), temporary_(path + ".tmp") {
  open_and_lock();
  try {
    if (ftruncate(fd_, 0) != 0) fail(error_text(temporary_, ": cannot be emptied"), errno);
    reserve(size);
  } catch (...) {
    discard();
    throw;
  }
}

OutputFile::~OutputFile() { discard(); }

void OutputFile::open_and_lock() {
  while (true) {
    fd_ = open(temporary_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd_ < 0) fail(error_text(temporary_, ": cannot be created"), errno);
    if (flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      const int code = errno;
      close(std::exchange(fd_, -1));
      if (code != EWOULDBLOCK) fail(error_text(temporary_, ": cannot be locked"), code);
      throw Error(ErrorKind::kInternal,
                  error_text(path_, ": another build is writing this file (", temporary_,
                             " is locked); wait for it or choose another output"));
    }
    // Another writer may have renamed or removed the file between open and flock; then start over.
    struct stat mine{}, named{};
    if (fstat(fd_, &mine) == 0 && stat(temporary_.c_str(), &named) == 0 && mine.st_ino == named.st_ino &&
        mine.st_dev == named.st_dev)
      return;
    close(std::exchange(fd_, -1));
  }
}

void OutputFile::reserve(uint64_t size) const {
  int code;
  do {
    code = posix_fallocate(fd_, 0, off_t(size));
  } while (code == EINTR);
  if (code != 0) fail(error_text(temporary_, ": cannot reserve ", size, " bytes"), code);
}

void OutputFile::write_at(uint64_t offset, const void* data, uint64_t bytes) const {
  const auto* p = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t done = pwrite(fd_, p, size_t(std::min(bytes, kIoChunk)), off_t(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) fail(error_text(temporary_, ": writing failed"), done < 0 ? errno : ENOSPC);
    p += done;
    offset += uint64_t(done);
    bytes -= uint64_t(done);
  }
}

void OutputFile::read_at(uint64_t offset, void* data, uint64_t bytes) const {
  auto* p = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t done = pread(fd_, p, size_t(std::min(bytes, kIoChunk)), off_t(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) fail(error_text(temporary_, ": reading back failed"), done < 0 ? errno : EIO);
    p += done;
    offset += uint64_t(done);
    bytes -= uint64_t(done);
  }
}

void OutputFile::publish() {
  if (fsync(fd_) != 0) fail(error_text(temporary_, ": cannot be flushed to disk"), errno);
  // Bytes written in chunks are cached in small pages, and stay so. Dropping them from the page cache lets a
  // later reader that maps the file with Advice::kHugePages get huge ones.
  posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED);
  if (rename(temporary_.c_str(), path_.c_str()) != 0)
    fail(error_text(path_, ": cannot be put in place"), errno);
  close(std::exchange(fd_, -1));
  // The rename itself must survive a power cut. Some file systems cannot flush a directory; that is no error.
  const size_t slash = path_.find_last_of('/');
  const std::string directory = slash == std::string::npos ? "." : path_.substr(0, slash + 1);
  if (const int handle = open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); handle >= 0) {
    fsync(handle);
    close(handle);
  }
}

void OutputFile::discard() noexcept {
  if (fd_ < 0) return;
  unlink(temporary_.c_str());  // before the lock goes, so that it is still ours
  close(std::exchange(fd_, -1));
}

}  // namespace llama4rt
