// Kernels that start before the one before them is done (csrc/cuda/device/overlap.cuh): what the emulator
// says of those that do not wait, or too late. This file is compiled as kernel code is.
#include <cstdlib>
#include <string>

#include "cuda/device/overlap.cuh"
#include "cuda/launch.h"
#include "cuda/simt_test.h"

namespace llama4rt::test {
namespace {

using namespace llama4rt::cuda;  // NOLINT: this file is about nothing else

using Kernel = void (*)(float* state, const float* weights);

void writes(float* state, const float* weights) {
  ptx::grid_wait();
  ptx::grid_launch_dependents();
  state[thread_x()] = weights[thread_x()] + 1.0f;
}
void writes_elsewhere(float* state, const float* weights) {
  ptx::grid_wait();
  state[32 + thread_x()] = weights[thread_x()];
}
// Its weights early, the rest late, as it should be.
void reads(float* state, const float* weights) {
  const float weight = weights[thread_x()];
  ptx::grid_wait();
  state[32 + thread_x()] = state[thread_x()] + weight;
}
void reads_too_early(float* state, const float* weights) {
  const float before = state[thread_x()];
  ptx::grid_wait();
  state[32 + thread_x()] = before + weights[thread_x()];
}
void writes_too_early(float* state, const float* weights) {
  state[thread_x()] = weights[thread_x()];
  ptx::grid_wait();
}
void half_of_it_waits(float* state, const float* weights) {
  if (thread_x() % 2 == 0) ptx::grid_wait();
  state[64 + thread_x()] = weights[thread_x()];
}

// 96 floats of state, zero, and 32 of weights, all one.
class Pair {
 public:
  explicit Pair(bool overlap = true) : stream_(overlap), state_(96 * 4), weights_(32 * 4) {
    const std::vector<float> ones(32, 1.0f);
    stream_.fill(state_.data(), 0, state_.size());
    stream_.copy_to_device(weights_.data(), ones.data(), weights_.size());
    stream_.synchronize();
  }
  void start(const char* name, Kernel kernel) {
    launch(name, kernel, {.threads = 32}, stream_, state_.as<float>(), weights_.as<const float>());
  }
  // The report.
  std::string finish() {
    return report_of([&] { stream_.synchronize(); });
  }
  float result() {
    float found[96];
    stream_.copy_to_host(found, state_.data(), sizeof found);
    stream_.synchronize();
    return found[40];
  }
  Stream& stream() { return stream_; }
  void copy() { stream_.fill(state_.as<float>() + 64, 0, 4); }

 private:
  Stream stream_;
  DeviceBuffer state_, weights_;
};

bool has(const std::string& report, const char* what) { return report.find(what) != std::string::npos; }

TEST(who_waits_may_read) {
  Pair p;
  p.start("first", writes);
  p.start("second", reads);
  CHECK_EQ(p.finish(), "");
  CHECK_EQ(p.result(), 3.0f);
}

TEST(who_does_not_wait_is_reported) {
  Pair p;
  p.start("first", writes);
  p.start("second", half_of_it_waits);
  CHECK(has(p.finish(), "exit without griddepcontrol.wait"));
}

TEST(who_reads_or_writes_too_early_is_reported) {
  if (!kChecked) return skip(kNoChecker);
  Pair p;
  p.start("first", writes);
  p.start("second", reads_too_early);
  const std::string read = p.finish();
  CHECK(has(read, "race: read of what thread 0 of a kernel before"));
  CHECK(has(read, "overlap_kernels_test.cpp:"));
  p.start("first", reads);
  p.start("second", writes_too_early);
  const std::string write = p.finish();
  CHECK(has(write, "race: write") && has(write, "by thread 0 of a kernel before"));
}

// One kernel further back counts too: when the last one is started, nobody has waited for its end.
TEST(all_kernels_since_the_last_copy_count) {
  if (!kChecked) return skip(kNoChecker);
  Pair p;
  p.start("first", writes);
  p.start("second", writes_elsewhere);
  p.start("third", reads_too_early);
  CHECK(has(p.finish(), "race: read"));
  p.start("first", writes);
  p.copy();
  p.start("second", reads_too_early);
  CHECK_EQ(p.finish(), "");
}

TEST(a_recorded_kernel_overlaps_too) {
  if (!kChecked) return skip(kNoChecker);
  Pair p;
  Graph right(p.stream(), [&] {
    p.start("first", writes);
    p.start("second", reads);
  });
  for (int i = 0; i < 2; ++i) right.launch(p.stream());
  CHECK_EQ(p.finish(), "");
  CHECK_EQ(p.result(), 3.0f);
  Graph wrong(p.stream(), [&] {
    p.start("first", writes);
    p.start("second", reads_too_early);
  });
  wrong.launch(p.stream());
  CHECK(has(p.finish(), "race: read"));
}

TEST(overlap_can_be_switched_off) {
  Pair p(/*overlap=*/false);
  CHECK(!p.stream().overlaps());
  p.start("first", writes);
  p.start("second", half_of_it_waits);
  p.start("third", reads_too_early);
  CHECK_EQ(p.finish(), "");
  CHECK(Stream().overlaps());
}

}  // namespace
}  // namespace llama4rt::test
