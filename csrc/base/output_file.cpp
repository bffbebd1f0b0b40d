#include "base/output_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "base/error.h"

namespace llama4rt {
namespace {

constexpr uint64_t kIoChunk = uint64_t(64) << 20;
constexpr int kTries = 100;

bool same_file(const struct stat& a, const struct stat& b) {
  return a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

[[noreturn]] void fail(const std::string& what, int code) {
  throw Error(ErrorKind::kInternal, error_text(what, ": ", std::strerror(code)));
}

}  // namespace

OutputFile::OutputFile(const std::string& path, uint64_t size, bool adopt)
    : path_(path), temporary_(path + ".tmp") {
  check_not_in_use();
  create_and_lock(adopt ? size : 0);
  try {
    reserve(size);
  } catch (...) {
    discard();
    throw;
  }
}

OutputFile::~OutputFile() {
  if (kept_ && fd_ >= 0) close(std::exchange(fd_, -1));
  discard();
}

// adopted_size: of a leftover to take over; 0 takes over none.
void OutputFile::create_and_lock(uint64_t adopted_size) {
  // Each turn that does not end here means that another process came between; several in a row mean a fight.
  for (int i = 0; i < kTries; ++i) {
    fd_ = open(temporary_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd_ < 0 && errno == EEXIST) {
      take_leftover(adopted_size);
      if (adopted_) return;
      continue;
    }
    if (fd_ < 0) fail(error_text(temporary_, ": cannot be created"), errno);
    if (flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno != EWOULDBLOCK) {
      const int code = errno;
      discard();
      fail(error_text(temporary_, ": cannot be locked"), code);
    }
    if (is_named()) return;  // else another writer took our new file for a leftover before it was locked
    close(std::exchange(fd_, -1));
  }
  throw Error(ErrorKind::kInternal, error_text(path_,
                                               ": other builds are writing this file; wait for them or "
                                               "choose another output"));
}

// The temporary of a killed writer goes, or becomes ours; whatever else has the name stays, and is an error.
void OutputFile::take_leftover(uint64_t adopted_size) {
  struct stat found{};
  if (lstat(temporary_.c_str(), &found) != 0) {
    if (errno == ENOENT) return;
    fail(error_text(temporary_, ": cannot be examined"), errno);
  }
  const char* const foreign = S_ISLNK(found.st_mode)      ? "is a symbolic link"
                              : !S_ISREG(found.st_mode)   ? "is not a regular file"
                              : found.st_nlink > 1        ? "is a hard link: the file has other names too"
                              : found.st_uid != geteuid() ? "belongs to another user"
                                                          : nullptr;
  if (foreign)
    throw Error(ErrorKind::kInternal, error_text(temporary_, ": ", foreign,
                                                 ", and no build left it there; remove "
                                                 "it or choose another output"));
  const bool adopt = adopted_size > 0 && uint64_t(found.st_size) == adopted_size;
  const int fd = open(temporary_.c_str(), (adopt ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0) {
    if (errno == ENOENT) return;
    fail(error_text(temporary_, ": cannot be opened"), errno);
  }
  const bool locked = flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  struct stat mine{}, named{};
  const bool same = fstat(fd, &mine) == 0 && lstat(temporary_.c_str(), &named) == 0 && same_file(mine, named);
  if (adopt && !locked && same && mine.st_size == found.st_size) {
    fd_ = fd;
    adopted_ = true;
    return;
  }
  // Under the lock, so that two writers do not remove each other's.
  const int code = !locked && same && unlink(temporary_.c_str()) != 0 ? errno : 0;
  close(fd);
  if (locked)
    throw Error(ErrorKind::kInternal, error_text(path_, ": another build is writing this file (", temporary_,
                                                 " is locked); wait for it or choose another output"));
  if (code != 0 && code != ENOENT)
    fail(error_text(temporary_, ": a killed build left it, and it cannot be removed"), code);
}

void OutputFile::check_not_in_use() const {
  struct stat found{};
  if (stat(path_.c_str(), &found) != 0 || !S_ISREG(found.st_mode)) return;
  const int fd = open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return;
  const bool in_use = flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  close(fd);
  if (in_use)
    throw Error(ErrorKind::kInternal,
                error_text(path_,
                           ": an engine has this file open; close it, or build under another name and move "
                           "the new file over the old one (mv, never cp)"));
}

bool OutputFile::is_named() const {
  struct stat mine{}, named{};
  return fstat(fd_, &mine) == 0 && lstat(temporary_.c_str(), &named) == 0 && same_file(mine, named);
}

void OutputFile::reserve(uint64_t size) const {
  int code;
  do {
    code = posix_fallocate(fd_, 0, off_t(size));
  } while (code == EINTR);
  if (code != 0) fail(error_text(temporary_, ": cannot reserve ", size, " bytes"), code);
}

void OutputFile::clear(uint64_t offset, uint64_t bytes) const {
  if (bytes == 0) return;
  // At once where the file system can: most of a large file is cleared when little of it was written.
  constexpr int kHole = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  if (fallocate(fd_, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, off_t(offset), off_t(bytes)) == 0) return;
  if (fallocate(fd_, kHole, off_t(offset), off_t(bytes)) == 0 &&
      posix_fallocate(fd_, off_t(offset), off_t(bytes)) == 0)
    return;
  const std::vector<char> zeros(size_t(std::min(bytes, kIoChunk)));
  for (uint64_t done = 0; done < bytes; done += zeros.size())
    write_at(offset + done, zeros.data(), std::min(bytes - done, uint64_t(zeros.size())));
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
  check_not_in_use();
  if (!is_named())
    throw Error(ErrorKind::kInternal,
                error_text(temporary_, ": was removed or replaced while it was written"));
  flock(fd_, LOCK_SH | LOCK_NB);  // whoever opens the file from now on shares its lock
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
  if (is_named()) unlink(temporary_.c_str());  // before the lock goes, so that it is still ours
  close(std::exchange(fd_, -1));
}

}  // namespace llama4rt
