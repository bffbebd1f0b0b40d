/* Preloaded (LD_PRELOAD) by test_allocation_faults.py: lets the Nth allocation, mapping or thread start of the process
   fail, on demand. operator new of libstdc++ and Python's own allocator come through malloc and mmap. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { kMalloc = 1, kMmap = 2, kThread = 4 };

static atomic_int kinds;             /* which calls count; 0: disarmed */
static atomic_long seen, first, end; /* calls since arming; those in [first, end) fail */

static struct sigaction before; /* what handled crashes */

static void name_crash(int signal_number, siginfo_t* info, void* context) {
  (void)info;
  const ucontext_t* at = context;
#ifdef __x86_64__
  void* const code = (void*)at->uc_mcontext.gregs[REG_RIP];
#else
  void* const code = (void*)at->uc_mcontext.pc;
#endif
  Dl_info where;
  const char* name = dladdr(code, &where) && where.dli_fname ? where.dli_fname : "?";
  ssize_t ignored = write(2, "crashed in ", 11);
  ignored += write(2, name, strlen(name));
  ignored += write(2, "\n", 1);
  (void)ignored;
  sigaction(signal_number, &before, NULL); /* the same instruction again, for who was there before */
}

/* From now on a crash says on stderr in which library it was. */
void faults_name_crashes(void) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = name_crash;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigaction(SIGSEGV, &action, &before);
}

void faults_arm(int which, long nth, long count) {
  atomic_store(&kinds, 0);
  atomic_store(&seen, 0);
  atomic_store(&first, nth);
  atomic_store(&end, nth + count);
  atomic_store(&kinds, which);
}
long faults_disarm(void) {
  atomic_store(&kinds, 0);
  return atomic_load(&seen);
}

static int fails(int kind) {
  if (!(atomic_load_explicit(&kinds, memory_order_relaxed) & kind)) return 0;
  const long n = atomic_fetch_add(&seen, 1) + 1;
  return n >= atomic_load(&first) && n < atomic_load(&end);
}

extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*, size_t);
extern void* __libc_memalign(size_t, size_t);

static void* refuse(void) {
  errno = ENOMEM;
  return NULL;
}
void* malloc(size_t size) { return fails(kMalloc) ? refuse() : __libc_malloc(size); }
void* calloc(size_t n, size_t size) { return fails(kMalloc) ? refuse() : __libc_calloc(n, size); }
void* realloc(void* p, size_t size) { return fails(kMalloc) ? refuse() : __libc_realloc(p, size); }
void* memalign(size_t to, size_t size) { return fails(kMalloc) ? refuse() : __libc_memalign(to, size); }
void* aligned_alloc(size_t to, size_t size) { return fails(kMalloc) ? refuse() : __libc_memalign(to, size); }
int posix_memalign(void** out, size_t to, size_t size) {
  if (fails(kMalloc)) return ENOMEM;
  *out = __libc_memalign(to, size);
  return *out ? 0 : ENOMEM;
}

void* mmap(void* at, size_t size, int protection, int flags, int file, off_t offset) {
  if (fails(kMmap)) {
    errno = ENOMEM;
    return MAP_FAILED;
  }
  return (void*)syscall(SYS_mmap, at, size, protection, flags, file, offset);
}
void* mmap64(void* at, size_t size, int protection, int flags, int file, off_t offset) {
  return mmap(at, size, protection, flags, file, offset);
}

int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*body)(void*), void* argument) {
  static int (*create)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  if (!create) *(void**)&create = dlsym(RTLD_NEXT, "pthread_create");
  return fails(kThread) ? EAGAIN : create(thread, attributes, body, argument);
}
