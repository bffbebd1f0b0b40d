// Makes the Nth system call on files fail, stop half-way, or be the process's last: preloaded (LD_PRELOAD) by
// tests/python/build_faults.py, which arms it in a forked child. Unarmed, every call goes through.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { kCount, kError, kShort, kKillBefore, kKillAfter, kKillTorn, kErrorFromNowOn };

// What a call can do wrong beside failing: take part of the bytes, or find the disk full.
enum { kReads = 1, kWrites = 2, kTransfers = 4 };

static atomic_long calls;
static long target;
static int armed, kind, error_number;
static const char* last_name = "";
static char names[1 << 16][24];  // of the calls so far, by number
static unsigned char flags_of[1 << 16];

void io_faults_arm(long nth, int what, int error) {
  atomic_store(&calls, 0);
  target = nth;
  kind = what;
  error_number = error;
  armed = 1;
}
void io_faults_disarm(void) { armed = 0; }
long io_faults_calls(void) { return atomic_load(&calls); }
const char* io_faults_hit(void) { return last_name; }
const char* io_faults_name(long nth) { return names[nth & 0xffff]; }
int io_faults_flags(long nth) { return flags_of[nth & 0xffff]; }

// What is to happen to this call: kCount for nothing.
static int fate(const char* name, int flags) {
  if (!armed) return kCount;
  const long nth = atomic_fetch_add(&calls, 1) + 1;
  if (kind == kCount) {
    strncpy(names[nth & 0xffff], name, 23);
    flags_of[nth & 0xffff] = (unsigned char)flags;
    return kCount;
  }
  if (kind == kErrorFromNowOn) {
    if (nth < target || !(flags & kWrites)) return kCount;
    last_name = name;
    errno = error_number;
    return kError;
  }
  if (nth != target) return kCount;
  last_name = name;
  if (kind == kKillBefore || (kind == kKillTorn && !(flags & kTransfers))) raise(SIGKILL);
  if (kind == kShort && !(flags & kTransfers)) return kCount;
  errno = error_number;
  return kind;
}

#define REAL(type, name, ...)                                       \
  static type (*real)(__VA_ARGS__);                                 \
  if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name); \
  const int saved_errno = errno;

// A call of any result; `failed` is what it returns on an error.
#define CALL(name, flags, failed, call)   \
  const int what = fate(name, flags);     \
  if (what == kError) return failed;      \
  errno = saved_errno;                    \
  const __typeof__(call) result = call;   \
  if (what == kKillAfter) raise(SIGKILL); \
  return result;

// A call that transfers `bytes`, and may transfer fewer.
#define TRANSFER(name, flags, bytes, call_of)                                            \
  const int what = fate(name, (flags) | kTransfers);                                     \
  if (what == kError) return -1;                                                         \
  errno = saved_errno;                                                                   \
  const size_t part = what == kShort || what == kKillTorn ? ((bytes) + 1) / 2 : (bytes); \
  const ssize_t result = call_of(part);                                                  \
  if (what == kKillAfter || what == kKillTorn) raise(SIGKILL);                           \
  return result;

#define DEFINE_OPEN(name)                                                   \
  int name(const char* path, int flags, ...) {                              \
    REAL(int, name, const char*, int, ...)                                  \
    mode_t mode = 0;                                                        \
    if (flags & (O_CREAT | O_TMPFILE)) {                                    \
      va_list list;                                                         \
      va_start(list, flags);                                                \
      mode = va_arg(list, mode_t);                                          \
      va_end(list);                                                         \
    }                                                                       \
    CALL(#name, flags & O_CREAT ? kWrites : 0, -1, real(path, flags, mode)) \
  }
DEFINE_OPEN(open)
DEFINE_OPEN(open64)

#define DEFINE_TRANSFER(name, type, flags)        \
  ssize_t name(int fd, type data, size_t bytes) { \
    REAL(ssize_t, name, int, type, size_t)        \
    if (fd <= 2) return real(fd, data, bytes);    \
    __typeof__(data) at = data;                   \
    TRANSFER(#name, flags, bytes, TRANSFER_AT)    \
  }
#define TRANSFER_AT(part) real(fd, at, part)
DEFINE_TRANSFER(read, void*, kReads)
DEFINE_TRANSFER(write, const void*, kWrites)
#undef TRANSFER_AT

#define DEFINE_TRANSFER_OFFSET(name, type, flags)               \
  ssize_t name(int fd, type data, size_t bytes, off_t offset) { \
    REAL(ssize_t, name, int, type, size_t, off_t)               \
    TRANSFER(#name, flags, bytes, TRANSFER_AT)                  \
  }
#define TRANSFER_AT(part) real(fd, data, part, offset)
DEFINE_TRANSFER_OFFSET(pread, void*, kReads)
DEFINE_TRANSFER_OFFSET(pread64, void*, kReads)
DEFINE_TRANSFER_OFFSET(pwrite, const void*, kWrites)
DEFINE_TRANSFER_OFFSET(pwrite64, const void*, kWrites)

int fsync(int fd){REAL(int, fsync, int) CALL("fsync", kWrites, -1, real(fd))}
#define DEFINE_TRUNCATE(name)                \
  int name(int fd, off_t size) {             \
    REAL(int, name, int, off_t)              \
    CALL(#name, kWrites, -1, real(fd, size)) \
  }
DEFINE_TRUNCATE(ftruncate) DEFINE_TRUNCATE(ftruncate64)
#define DEFINE_FALLOCATE(name)                                 \
  int name(int fd, off_t offset, off_t size) {                 \
    REAL(int, name, int, off_t, off_t)                         \
    CALL(#name, kWrites, error_number, real(fd, offset, size)) \
  }
    DEFINE_FALLOCATE(posix_fallocate)
        DEFINE_FALLOCATE(posix_fallocate64) int rename(const char* from, const char* to) {
  REAL(int, rename, const char*, const char*)
  CALL("rename", kWrites, -1, real(from, to))
}
int unlink(const char* path) {
  REAL(int, unlink, const char*)
  CALL("unlink", 0, -1, real(path))
}
int flock(int fd, int operation) {
  REAL(int, flock, int, int)
  CALL("flock", 0, -1, real(fd, operation))
}
int close(int fd){// it cannot fail usefully; a place to die
                  REAL(int, close, int) CALL("close", 0, (real(fd), -1), real(fd))} ssize_t
    readlink(const char* path, char* text, size_t bytes){REAL(ssize_t, readlink, const char*, char*, size_t)
                                                             CALL("readlink", 0, -1, real(path, text, bytes))}
#define DEFINE_FSTAT(name)              \
  int name(int fd, struct stat* info) { \
    REAL(int, name, int, struct stat*)  \
    CALL(#name, 0, -1, real(fd, info))  \
  }
DEFINE_FSTAT(fstat)
#define DEFINE_PATH_STAT(name)                    \
  int name(const char* path, struct stat* info) { \
    REAL(int, name, const char*, struct stat*)    \
    CALL(#name, 0, -1, real(path, info))          \
  }
    DEFINE_PATH_STAT(stat) DEFINE_PATH_STAT(lstat)
    // The same calls under the names that programs built for large files use; struct stat64 is struct stat here.
    int fstat64(int fd, struct stat64* info) {
  REAL(int, fstat64, int, struct stat64*)
  CALL("fstat64", 0, -1, real(fd, info))
}
int stat64(const char* path, struct stat64* info) {
  REAL(int, stat64, const char*, struct stat64*)
  CALL("stat64", 0, -1, real(path, info))
}
int lstat64(const char* path, struct stat64* info) {
  REAL(int, lstat64, const char*, struct stat64*)
  CALL("lstat64", 0, -1, real(path, info))
}
int fstatat64(int directory, const char* path, struct stat64* info,
              int flags){REAL(int, fstatat64, int, const char*, struct stat64*, int)
                             CALL("fstatat64", 0, -1, real(directory, path, info, flags))}
#define DEFINE_MMAP(name)                                                                    \
  void* name(void* address, size_t bytes, int protection, int flags, int fd, off_t offset) { \
    REAL(void*, name, void*, size_t, int, int, int, off_t)                                   \
    if (fd < 0) return real(address, bytes, protection, flags, fd, offset); /* memory */     \
    CALL(#name, 0, MAP_FAILED, real(address, bytes, protection, flags, fd, offset))          \
  }
DEFINE_MMAP(mmap) DEFINE_MMAP(mmap64) void* opendir(const char* path) {
  REAL(void*, opendir, const char*)
  CALL("opendir", 0, NULL, real(path))
}
