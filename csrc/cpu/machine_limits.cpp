#include "cpu/machine_limits.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "base/error.h"
#include "cpu/dispatch.h"

namespace llama4rt::cpu {
namespace {

constexpr size_t kBufferBytes = size_t(512) << 20;
constexpr int kPasses = 8;  // the best one counts: the machine may be busy with something else

class HugeBuffer {
 public:
  HugeBuffer() {
    data_ = mmap(nullptr, kBufferBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    LLAMA4RT_CHECK(kInternal, data_ != MAP_FAILED, "out of memory: the system refused ", kBufferBytes,
                   " bytes to measure the machine with");
    madvise(data_, kBufferBytes, MADV_HUGEPAGE);  // a wish; the measurement works without
  }
  ~HugeBuffer() { munmap(data_, kBufferBytes); }
  HugeBuffer(const HugeBuffer&) = delete;
  HugeBuffer& operator=(const HugeBuffer&) = delete;
  char* data() const { return static_cast<char*>(data_); }

 private:
  void* data_ = nullptr;
};

double seconds_of(const auto& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double best_read_gbps(const Kernels& kernels, ThreadPool& pool) {
  const HugeBuffer buffer;
  pool.parallel_for(kBufferBytes, 4096, [&](int64_t begin, int64_t end) {
    std::memset(buffer.data() + begin, 0, size_t(end - begin));  // each thread touches the part it will read
  });
  std::atomic<float> sink{0};
  double best = 1e30;
  for (int pass = 0; pass < kPasses; ++pass)
    best = std::min(best, seconds_of([&] {
                      pool.parallel_for(kBufferBytes, 4096, [&](int64_t begin, int64_t end) {
                        sink = kernels.read_sum(buffer.data() + begin, end - begin);
                      });
                    }));
  return double(kBufferBytes) / best * 1e-9;
}

// chains: operations done by a number of turns of independent arithmetic (Kernels).
double best_gops(int64_t (*chains)(int64_t turns, float* sink), ThreadPool& pool) {
  std::atomic<int64_t> operations{0};
  std::atomic<float> sink{0};
  int64_t turns = 1000;
  const auto pass = [&] {
    operations = 0;
    return seconds_of([&] {
      pool.run([&](int, int) {
        float value = 0;
        operations += chains(turns, &value);
        sink = value;
      });
    });
  };
  while (pass() < 0.01) turns *= 2;  // at least 10 ms a pass
  double best = 1e30;
  for (int i = 0; i < kPasses; ++i) best = std::min(best, pass());
  return double(operations) / best * 1e-9;
}

}  // namespace

MachineLimits measure_machine(ThreadPool& pool) {
  const std::string isa = supported_isas().back();
  const Kernels& kernels = kernels_by_name(isa);  // a table of the program, but gcc 16 cannot know that
  return {best_read_gbps(kernels, pool), best_gops(kernels.fma_chains, pool),
          best_gops(kernels.int8_chains, pool)};
}

MachineLimits measure_machine(int num_threads) {
  ThreadPool pool(num_threads);
  return measure_machine(pool);
}

}  // namespace llama4rt::cpu
