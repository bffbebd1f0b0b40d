// Small wrong kernels, one mistake each, and the report each must get; then legal ones that look alike and
// must stay silent. This file is compiled as kernel code is.
#include <string>

#include "cuda/launch.h"
#include "cuda/ptx/cp_async.cuh"
#include "cuda/ptx/math.cuh"
#include "cuda/ptx/matrix.cuh"
#include "cuda/ptx/mbarrier.cuh"
#include "cuda/ptx/memory.cuh"
#include "cuda/ptx/sync.cuh"
#include "cuda/ptx/ticket.cuh"
#include "cuda/ptx/tma.cuh"
#include "cuda/ptx/warp.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "cuda/simt.h"
#include "cuda/simt_test.h"
#include "simt_emulator/checker.h"

namespace llama4rt::test {
namespace {

using namespace llama4rt::cuda;  // NOLINT: this file is about nothing else

using Kernel = void (*)(float* memory, int size);

// Runs a kernel over 64 floats of device memory, the first half of them zero, the others never written.
void run(Kernel kernel, int threads = 64, int blocks = 1) {
  Stream stream;
  const DeviceBuffer memory(64 * 4);
  stream.fill(memory.data(), 0, 32 * 4);
  launch("probe", kernel, {.grid_x = blocks, .threads = threads, .dynamic_shared = 4096, .alone = true},
         stream, memory.as<float>(), 64);
  stream.synchronize();
}

// needs_checker: a mistake that only the checker can see.
void expect(const char* what, Kernel kernel, int threads = 64, int blocks = 1, bool needs_checker = true) {
  if (needs_checker && !kChecked) return skip(kNoChecker);
  for (const simt::Options& o : schedules()) {
    SCOPE(what, ", ", describe(o));
    const WithOptions with(o);
    const std::string report = report_of([&] { run(kernel, threads, blocks); });
    if (report.find(what) == std::string::npos) fail(__FILE__, __LINE__, "the report is: " + report);
    // It names the kernel, the block, the thread or threads, and a line of this file.
    CHECK(report.find("probe, block (") != std::string::npos);
    CHECK(report.find("thread") != std::string::npos);
    CHECK(report.find("probes_kernels_test.cpp:") != std::string::npos);
  }
}

void expect_silence(Kernel kernel, int threads = 64, int blocks = 1) {
  for (const simt::Options& o : schedules()) {
    SCOPE(describe(o));
    const WithOptions with(o);
    CHECK_EQ(report_of([&] { run(kernel, threads, blocks); }), "");
  }
}

}  // namespace

// --- bounds and values

TEST(global_out_of_bounds) {
  expect("out of bounds", +[](float* p, int size) { p[size + thread_x()] = 0; });
}
TEST(static_shared_out_of_bounds) {
  expect(
      "out of bounds", +[](float*, int) {
        LLAMA4RT_SHARED(float, a, 64);
        LLAMA4RT_SHARED(float, b, 64);
        b[thread_x()] = 0;
        a[thread_x() + 1] = 0;
      });
}
TEST(dynamic_shared_out_of_bounds) {
  expect(
      "out of bounds",
      +[](float*, int) { reinterpret_cast<float*>(dynamic_shared())[1024 + thread_x()] = 0; });
}
TEST(unwritten_shared) {
  expect(
      "memory nobody wrote", +[](float* p, int) {
        LLAMA4RT_SHARED(float, a, 128);
        a[thread_x()] = 1;
        ptx::sync_threads();
        p[thread_x()] = a[127 - thread_x()];
      });
}
TEST(unwritten_global) {
  expect("memory nobody wrote", +[](float* p, int) { p[thread_x() % 32] += p[32 + thread_x() % 32]; }, 32);
}
TEST(misaligned) {
  expect(
      "misaligned", +[](float* p, int) {
        const auto* bytes = reinterpret_cast<unsigned char*>(p) + 2;
        if (thread_x() == 0) p[0] = *reinterpret_cast<const float*>(bytes);
      });
}
TEST(host_pointer) {
  static float* heap;
  heap = new float[4]();
  struct Local {
    static void kernel(float* p, int, float* host) { p[thread_x() % 32] = host[0]; }
  };
  if (!kChecked) skip(kNoChecker);
  if (kChecked) {
    Stream stream;
    const DeviceBuffer memory(256);
    launch("probe", Local::kernel, {.threads = 32, .alone = true}, stream, memory.as<float>(), 64, heap);
    CHECK(report_of([&] { stream.synchronize(); }).find("host or wild pointer") != std::string::npos);
  }
  delete[] heap;
}
TEST(use_after_free) {
  if (!kChecked) return skip(kNoChecker);
  Stream stream;
  float* freed;
  {
    const DeviceBuffer memory(256);
    freed = memory.as<float>();
    launch("probe", +[](float* p) { p[thread_x()] = 0; }, {.threads = 32, .alone = true}, stream, freed);
  }  // before the stream has run
  CHECK(report_of([&] { stream.synchronize(); }).find("use after free") != std::string::npos);
}

// --- races

TEST(missing_block_barrier) {
  expect(
      "race", +[](float* p, int) {
        LLAMA4RT_SHARED(float, a, 64);
        a[thread_x()] = 1;
        ptx::sync_warp(0xffffffffu);  // not enough for two warps
        if (thread_x() < 32) p[thread_x()] = a[thread_x()];
        a[(thread_x() + 32) % 64] = 2;
      });
}
TEST(missing_syncwarp) {
  expect(
      "race",
      +[](float* p, int) {
        LLAMA4RT_SHARED(float, a, 64);
        a[thread_x()] = 1;
        ptx::sync_threads();
        a[thread_x()] = 2;
        p[thread_x() % 32] = a[thread_x() ^ 1];
      },
      32);
}
TEST(a_shuffle_is_no_fence) {
  expect(
      "race",
      +[](float* p, int) {
        LLAMA4RT_SHARED(float, a, 64);
        a[thread_x()] = 1;
        ptx::sync_warp(0xffffffffu);
        a[thread_x()] = ptx::shuffle_xor(1.0f, 1);
        ptx::ballot(true);
        p[thread_x()] = a[thread_x() ^ 1];
      },
      32);
}
TEST(write_while_others_read) {
  expect(
      "race", +[](float* p, int) {
        LLAMA4RT_SHARED(float, a, 64);
        a[thread_x()] = 1;
        ptx::sync_threads();
        const float x = a[63 - thread_x()];
        if (thread_x() == 0) ptx::sync_warp(1);  // orders nothing with the others
        a[thread_x()] = x;
        ptx::sync_threads();
        if (thread_x() < 32) p[thread_x()] = a[thread_x()];
      });
}
TEST(race_between_blocks) {
  expect(
      "race",
      +[](float* p, int) {
        if (thread_x() == 0) p[0] += 1.0f;
      },
      32, 2);
}
TEST(atomic_without_fence) {
  expect(
      "race",
      +[](float* p, int) {
        LLAMA4RT_SHARED(uint32_t, ticket, 1);
        p[1 + block_x()] = 1.0f;
        if (thread_x() == 0) ticket[0] = ptx::atomic_add(reinterpret_cast<uint32_t*>(p), 1);
        ptx::sync_warp(1);
        if (ticket[0] == 1) p[4] = p[1] + p[2];
      },
      1, 2);
}

// --- rendezvous

TEST(divergent_shuffle) {
  expect(
      "divergent code",
      +[](float* p, int) {
        float x = p[thread_x() % 32];
        if (thread_x() % 2 == 0)
          x = ptx::shuffle_xor(x, 2);
        else
          x = ptx::shuffle_xor(x, 2);
        p[thread_x() % 32] = x;
      },
      32, 1, false);
}
TEST(divergent_barrier) {
  expect(
      "divergent code",
      +[](float*, int) {
        if (thread_x() % 2 == 0)
          ptx::sync_threads();
        else
          ptx::sync_threads();
      },
      64, 1, false);
}
TEST(barrier_in_a_branch) {
  expect(
      "deadlock",
      +[](float*, int) {
        if (thread_x() < 32)
          ptx::sync_named(1, 64);
        else
          ptx::sync_threads();
      },
      64, 1, false);
}
TEST(mask_without_the_caller) {
  expect("not in its own mask", +[](float*, int) { ptx::sync_warp(1); }, 32, 1, false);
}
TEST(named_barrier_counts_differ) {
  expect("barrier 1", +[](float*, int) { ptx::sync_named(1, thread_x() < 32 ? 64 : 32); }, 64, 1, false);
}
TEST(named_barrier_lacks_arrivals) {
  expect(
      "deadlock",
      +[](float*, int) {
        if (thread_x() < 32) ptx::sync_named(2, 64);
      },
      64, 1, false);
}

// --- asynchronous copies

TEST(copy_in_flight) {
  expect(
      "in flight",
      +[](float* p, int) {
        LLAMA4RT_SHARED(float, a, 128);
        ptx::copy_async_16(ptx::shared_address(a) + uint32_t(thread_x() * 16), p + thread_x() % 8 * 4, 16);
        ptx::copy_commit();
        p[32 + thread_x()] = a[thread_x() * 4];
        ptx::copy_wait<0>();
      },
      32);
}
TEST(exit_with_a_copy_in_flight) {
  expect(
      "in flight",
      +[](float* p, int) {
        LLAMA4RT_SHARED(float, a, 128);
        ptx::copy_async_16(ptx::shared_address(a) + uint32_t(thread_x() * 16), p + thread_x() % 8 * 4, 16);
        ptx::copy_commit();
      },
      32, 1, false);
}
TEST(others_copies_need_a_barrier) {
  expect(
      "race",
      +[](float* p, int) {
        LLAMA4RT_SHARED(float, a, 128);
        ptx::copy_async_16(ptx::shared_address(a) + uint32_t(thread_x() * 16), p + thread_x() % 8 * 4, 16);
        ptx::copy_commit();
        ptx::copy_wait<0>();
        ptx::ballot(true);  // all have waited, yet nothing orders
        p[32 + thread_x()] = a[124 - thread_x() * 4];
      },
      32);
}
TEST(mbarrier_before_init) {
  expect(
      "before its init",
      +[](float*, int) {
        LLAMA4RT_SHARED(uint64_t, b, 1);
        ptx::mbarrier_arrive(ptx::shared_address(b));
      },
      32, 1, false);
}
TEST(mbarrier_init_needs_a_barrier) {
  expect(
      "race",
      +[](float*, int) {
        LLAMA4RT_SHARED(uint64_t, b, 1);
        if (thread_x() == 0) ptx::mbarrier_init(ptx::shared_address(b), 32);
        ptx::ballot(true);
        ptx::mbarrier_arrive(ptx::shared_address(b));
      },
      32);
}
TEST(mbarrier_arrivals) {
  expect(
      "deadlock",
      +[](float*, int) {
        LLAMA4RT_SHARED(uint64_t, b, 1);
        if (thread_x() == 0) ptx::mbarrier_init(ptx::shared_address(b), 65);
        ptx::sync_threads();
        ptx::mbarrier_arrive(ptx::shared_address(b));
        ptx::mbarrier_wait(ptx::shared_address(b), 0);
      },
      64, 1, false);
}
TEST(bulk_copy_not_waited_for) {
  expect(
      "asynchronous copy",
      +[](float* p, int) {
        LLAMA4RT_SHARED(uint64_t, b, 1);
        LLAMA4RT_SHARED(float, a, 32);
        if (thread_x() == 0) ptx::mbarrier_init(ptx::shared_address(b), 1);
        ptx::sync_threads();
        if (thread_x() == 0) {
          ptx::mbarrier_arrive_expect(ptx::shared_address(b), 128);
          ptx::bulk_load(ptx::shared_address(a), p, 128, ptx::shared_address(b));
          p[32] = a[0];
        }
      },
      32, 1, true);
}
TEST(wgmma_reads_need_a_proxy_fence) {
  expect(
      "fence.proxy.async",
      +[](float*, int) {
        auto* words = reinterpret_cast<uint32_t*>(dynamic_shared());
        for (int i = thread_x(); i < 1024; i += 128) words[i] = 0;
        ptx::sync_threads();
        const uint32_t a = ptx::shared_address(words);
        float d[4] = {0, 0, 0, 0};
        ptx::wgmma_fence();
        ptx::wgmma_m64n8k16(d, ptx::wgmma_descriptor(a, 128, 256, Swizzle::kNone),
                            ptx::wgmma_descriptor(a + 2048, 128, 256, Swizzle::kNone), false);
        ptx::wgmma_commit();
        ptx::wgmma_wait<0>();
      },
      128);
}
TEST(wgmma_needs_its_fence) {
  expect(
      "without a wgmma.fence",
      +[](float*, int) {
        const uint32_t a = ptx::shared_address(dynamic_shared());
        float d[4] = {0, 0, 0, 0};
        ptx::wgmma_m64n8k16(d, ptx::wgmma_descriptor(a, 128, 256, Swizzle::kNone),
                            ptx::wgmma_descriptor(a, 128, 256, Swizzle::kNone), false);
      },
      128, 1, false);
}

// --- legal

TEST(legal_partial_masks) {
  expect_silence(+[](float* p, int) {
    LLAMA4RT_SHARED(float, a, 64);
    a[thread_x()] = 1;
    ptx::sync_warp(lane_index() < 16 ? 0x0000ffffu : 0xffff0000u);
    if (thread_x() < 32) p[thread_x()] = a[thread_x() ^ 15];
  });
}
TEST(legal_early_exit) {
  expect_silence(+[](float* p, int) {
    LLAMA4RT_SHARED(float, a, 64);
    if (thread_x() >= 40) return;
    a[thread_x()] = 1;
    ptx::sync_threads();
    if (thread_x() < 32) p[thread_x()] = a[39 - thread_x()];
  });
}
TEST(legal_ticket_between_blocks) {
  expect_silence(
      +[](float* p, int) {
        LLAMA4RT_SHARED(uint32_t, ticket, 1);
        if (thread_x() < 8) p[8 + block_x() * 8 + thread_x()] = 1.0f;
        ptx::sync_threads();
        if (thread_x() == 0) {
          ptx::fence_device();
          ticket[0] = ptx::atomic_add(reinterpret_cast<uint32_t*>(p), 1);
          ptx::fence_device();
        }
        ptx::sync_threads();
        if (ticket[0] == 2 && thread_x() < 24) p[32 + thread_x()] = p[8 + thread_x()];
      },
      64, 3);
}
TEST(legal_ordered_ticket_between_blocks) {
  expect_silence(
      +[](float* p, int) {
        LLAMA4RT_SHARED(uint32_t, ticket, 1);
        if (thread_x() < 8) p[8 + block_x() * 8 + thread_x()] = 1.0f;
        ptx::sync_threads();
        if (thread_x() == 0) ticket[0] = ptx::atomic_add_ordered(reinterpret_cast<uint32_t*>(p), 1);
        ptx::sync_threads();
        if (ticket[0] == 2 && thread_x() < 24) p[32 + thread_x()] = p[8 + thread_x()];
      },
      64, 3);
}
TEST(legal_neighbouring_halves) {
  expect_silence(+[](float* p, int) {
    auto* halves = reinterpret_cast<uint16_t*>(p);
    auto* bytes = reinterpret_cast<unsigned char*>(p + 32);
    halves[thread_x()] = 1;
    bytes[thread_x()] = 2;
  });
}

// --- the host side

TEST(a_result_is_not_there_before_the_stream_is_waited_for) {
  Stream stream;
  const DeviceBuffer memory(128);
  float out[32] = {};
  launch(
      "probe", +[](float* p) { p[thread_x()] = 5.0f; }, {.threads = 32, .alone = true}, stream,
      memory.as<float>());
  stream.copy_to_host(out, memory.data(), sizeof out);
  CHECK_EQ(out[3], 0.0f);
  stream.synchronize();
  CHECK_EQ(out[3], 5.0f);
}
TEST(events_order_streams) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    const WithOptions with({.order = simt::Order::kRandom, .seed = seed});
    Stream first, second;
    Event event;
    const DeviceBuffer memory(128);
    launch(
        "write", +[](float* p) { p[thread_x()] = 5.0f; }, {.threads = 32, .alone = true}, first,
        memory.as<float>());
    event.record(first);
    second.wait(event);
    launch(
        "add", +[](float* p) { p[thread_x()] += 1.0f; }, {.threads = 32, .alone = true}, second,
        memory.as<float>());
    float out[32] = {};
    second.copy_to_host(out, memory.data(), sizeof out);
    second.synchronize();
    CHECK_EQ(out[31], 6.0f);
  }
}
TEST(a_graph_repeats_what_was_recorded) {
  Stream stream;
  const DeviceBuffer memory(128);
  stream.fill(memory.data(), 0, 128);
  Graph graph(stream, [&] {
    launch(
        "add", +[](float* p, float x) { p[thread_x()] += x; }, {.threads = 32, .alone = true}, stream,
        memory.as<float>(), 2.0f);
  });
  for (int i = 0; i < 3; ++i) graph.launch(stream);
  float out[32] = {};
  stream.copy_to_host(out, memory.data(), sizeof out);
  stream.synchronize();
  CHECK_EQ(out[7], 6.0f);
}
TEST(impossible_launches_are_refused) {
  Stream stream;
  const Kernel nothing = +[](float*, int) {};
  for (const LaunchShape& shape : {LaunchShape{.threads = 1025}, LaunchShape{.grid_x = 0, .threads = 32},
                                   LaunchShape{.threads = 32, .dynamic_shared = 228 << 10},
                                   LaunchShape{.grid_y = 65536, .threads = 32}}) {
    launch("probe", nothing, shape, stream, nullptr, 0);
    CHECK_THROWS(kInternal, stream.synchronize());
  }
}

}  // namespace llama4rt::test
