#include "cuda/launch.h"
#include "cuda/ptx/bits.cuh"
#include "cuda/ptx/cp_async.cuh"
#include "cuda/ptx/grid.cuh"
#include "cuda/ptx/math.cuh"
#include "cuda/ptx/matrix.cuh"
#include "cuda/ptx/mbarrier.cuh"
#include "cuda/ptx/memory.cuh"
#include "cuda/ptx/rounded.cuh"
#include "cuda/ptx/sync.cuh"
#include "cuda/ptx/ticket.cuh"
#include "cuda/ptx/tma.cuh"
#include "cuda/ptx/warp.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "cuda/ptx_conformance.h"
#include "cuda/simt.h"

namespace llama4rt::test {
namespace {

using namespace llama4rt::cuda;  // NOLINT: this file is about nothing else

constexpr int kInputWords = 4096;

// out: words of the case; in: [kInputWords].
template <class Body>
__global__ void __launch_bounds__(128) ptx_kernel(uint32_t* out, const uint32_t* in) {
  Body::run(out, in);
}
template <class Body>
__global__ void __launch_bounds__(128)
    ptx_tensor_kernel(uint32_t* out, const uint32_t* in, const __grid_constant__ TensorMap map) {
  Body::run(out, in, &map);
}

// Blocks leave their words in `parts`; the last to arrive adds them up. Nothing but the ticket orders the blocks.
template <class Arrive>
__global__ void __launch_bounds__(128)
    ptx_ticket_kernel(uint32_t* out, const uint32_t* in, uint32_t* parts, uint32_t* ticket) {
  LLAMA4RT_SHARED(uint32_t, before, 1);
  parts[block_x() * 128 + thread_x()] = in[block_x() * 128 + thread_x()];
  ptx::sync_threads();
  if (thread_x() == 0) before[0] = Arrive::run(ticket);
  ptx::sync_threads();
  if (before[0] != 3u * uint32_t(grid_x() - 1)) return;
  uint32_t sum = 0;
  for (int b = 0; b < grid_x(); ++b) sum += parts[b * 128 + 127 - thread_x()];
  out[thread_x()] = sum;
}

LLAMA4RT_DEVICE uint32_t bits(float x) {
  union {
    float f;
    uint32_t u;
  } v{x};
  return v.u;
}
LLAMA4RT_DEVICE float small_float(uint32_t word) { return ptx::float_from_bits(word << 16); }

// --- barriers

struct SyncThreads {
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in) {
    LLAMA4RT_SHARED(uint32_t, words, 128);
    words[thread_x()] = in[thread_x()];
    ptx::sync_threads();
    out[thread_x()] = words[127 - thread_x()];
  }
};
struct SyncNamed {
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in) {
    LLAMA4RT_SHARED(uint32_t, words, 128);
    words[thread_x()] = in[thread_x()];
    ptx::sync_named(1 + thread_x() / 64, 64);  // each half by itself
    out[thread_x()] = words[thread_x() ^ 63];
  }
};
struct ArriveNamed {
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in) {
    LLAMA4RT_SHARED(uint32_t, words, 64);
    if (thread_x() < 64) {  // producers go on
      words[thread_x()] = in[thread_x()];
      ptx::arrive_named(3, 128);
      out[thread_x()] = 0;
    } else {
      ptx::sync_named(3, 128);
      out[thread_x()] = words[127 - thread_x()];
    }
  }
};
struct SyncWarp {
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in) {
    LLAMA4RT_SHARED(uint32_t, words, 128);
    words[thread_x()] = in[thread_x()];
    ptx::sync_warp(lane_index() < 8 ? 0x000000ffu : 0xffffff00u);
    out[thread_x()] = words[thread_x() ^ 7];
  }
};
// The order of arrival is open, the sum of all tickets is not.
struct AtomicAdd {
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in) {
    LLAMA4RT_SHARED(uint32_t, words, 128);
    if (thread_x() == 0) out[0] = in[0];
    ptx::fence_device();
    ptx::sync_threads();
    words[thread_x()] = ptx::atomic_add(out, 3) - in[0];
    ptx::sync_threads();
    uint32_t sum = 0;
    for (int i = 0; i < 128; ++i) sum += words[i];
    if (thread_x() > 0) out[thread_x()] = sum;
  }
};

struct ArriveFenced {
  static LLAMA4RT_DEVICE uint32_t run(uint32_t* ticket) {
    ptx::fence_device();
    const uint32_t before = ptx::atomic_add(ticket, 3);
    ptx::fence_device();
    return before;
  }
};
struct ArriveOrdered {
  static LLAMA4RT_DEVICE uint32_t run(uint32_t* ticket) { return ptx::atomic_add_ordered(ticket, 3); }
};

// --- lanes

struct Shuffle {
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in) {
    out[thread_x()] = ptx::shuffle(in[thread_x()], lane_index() * 7 % 32);
  }
};
struct ShuffleXor {
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in) {
    out[thread_x()] = bits(ptx::shuffle_xor(small_float(in[thread_x()]), 5));
  }
};
struct ShuffleUp {
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in) {
    out[thread_x()] = bits(ptx::shuffle_up(small_float(in[thread_x()]), 3));
  }
};
struct ShuffleDown {
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in) {
    out[thread_x()] = bits(ptx::shuffle_down(small_float(in[thread_x()]), 3));
  }
};
struct Ballot {
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in) {
    out[thread_x()] = ptx::ballot((in[thread_x()] & 1u) != 0);
  }
};
struct MatchAny {
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in) {
    out[thread_x()] = ptx::match_any(in[thread_x()] % 5);
  }
};

// --- arithmetic

struct Rsqrt {
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in) {
    out[thread_x()] = bits(ptx::rsqrt(1e-3f + float(in[thread_x()] % 1000)));
  }
};
struct Exp2 {
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in) {
    out[thread_x()] = bits(ptx::exp2(small_float(in[thread_x()])));
  }
};
struct Fma {
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in) {
    const float x = small_float(in[thread_x()]) + 1e-5f, y = small_float(in[thread_x()] >> 16) + 1e-6f;
    out[thread_x()] = bits(ptx::fma(x, y, -x));
  }
};
// Not an fma: both roundings show.
struct MulAdd {
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in) {
    const float x = 1.0f + small_float(in[thread_x()]) * 0x1p-14f, y = small_float(in[thread_x() + 128]);
    out[thread_x()] = ptx::bits_from_float(ptx::add(ptx::mul(x, x), y));
  }
};
struct Popcount {
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in) {
    out[thread_x()] = uint32_t(ptx::popcount(in[thread_x()]));
  }
};
struct PickBytes {
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in) {
    out[thread_x()] =
        ptx::pick_bytes(in[thread_x()], in[thread_x() + 128], in[thread_x() + 256] & 0xffff7777);
  }
};
struct FloatFromHalf {
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in) {
    const uint32_t bits = in[thread_x()] & 0xbfff;  // no NaN, whose bits may differ; subnormals too
    out[thread_x()] =
        ptx::bits_from_float(ptx::float_from_half(uint16_t(thread_x() % 4 ? bits : bits & 0x83ff)));
  }
};
struct PackBf16 {
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in) {
    const float x = small_float(in[thread_x()]);
    out[thread_x()] = ptx::pack_bf16(x * 1.00390625f, x * 1.0078125f + 1e-4f);  // with ties
  }
};
struct FmaBf16x2 {
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in) {
    out[thread_x()] = ptx::fma_bf16x2(in[thread_x()], in[thread_x() + 128], in[thread_x() + 256]);
  }
};
struct AndOr {
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in) {
    out[thread_x()] = ptx::and_or(in[thread_x()], 0x000f000f, 0x43004300);
  }
};

// --- shared memory and cp.async

struct LoadSharedV4 {
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in) {
    LLAMA4RT_SHARED(uint32_t, words, 512);
    for (int i = thread_x(); i < 512; i += 128) words[i] = in[i];
    ptx::sync_threads();
    const U32x4 v = ptx::load_shared_v4(ptx::shared_address(words) + uint32_t((127 - thread_x()) * 16));
    out[thread_x()] = v.x ^ (v.y << 1) ^ (v.z << 2) ^ (v.w << 3);
  }
};
struct CopyAsync {  // two groups; in the second some lanes read 0, 4, 8 or 12 bytes
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in) {
    LLAMA4RT_SHARED(uint32_t, words, 1024);
    const uint32_t to = ptx::shared_address(words) + uint32_t(thread_x() * 16);
    ptx::copy_async_16(to, in + thread_x() * 4, 16);
    ptx::copy_commit();
    ptx::copy_async_16(to + 2048, in + 512 + thread_x() * 4, thread_x() % 5 * 4);
    ptx::copy_commit();
    ptx::copy_wait<1>();
    const uint32_t first = words[thread_x() * 4 + 1];
    ptx::copy_wait<0>();
    ptx::sync_threads();
    uint32_t sum = first;
    for (int i = 0; i < 4; ++i) sum = sum * 31 + words[512 + (127 - thread_x()) * 4 + i];
    out[thread_x()] = sum;
  }
};

// --- matrices: every register of every lane goes out

template <bool kTransposed>
struct LdMatrix {
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in) {
    LLAMA4RT_SHARED(uint32_t, words, 512);
    for (int i = thread_x(); i < 512; i += 128) words[i] = in[i];
    ptx::sync_threads();
    uint32_t r[4];  // rows 48 bytes apart
    const uint32_t row = ptx::shared_address(words) + uint32_t(lane_index() * 48);
    if (kTransposed)
      ptx::ldmatrix_x4_transposed(r, row);
    else
      ptx::ldmatrix_x4(r, row);
    if (thread_x() < 32)
      for (int i = 0; i < 4; ++i) out[thread_x() * 4 + i] = r[i];
  }
};
struct Mma {
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in) {
    const uint32_t* mine = in + lane_index() * 8;
    const uint32_t a[4] = {mine[0], mine[1], mine[2], mine[3]};
    float d[4] = {1.0f, 2.0f, -3.0f, 0.5f};
    ptx::mma_m16n8k16(d, a, mine[4], mine[5]);
    if (thread_x() < 32)
      for (int i = 0; i < 4; ++i) out[thread_x() * 4 + i] = bits(d[i]);
  }
};

// --- mbarrier and bulk copies

struct MbarrierArrive {  // three phases of 128 arrivals
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in) {
    LLAMA4RT_SHARED(uint64_t, barrier, 1);
    LLAMA4RT_SHARED(uint32_t, words, 128);
    const uint32_t b = ptx::shared_address(barrier);
    if (thread_x() == 0) ptx::mbarrier_init(b, 128);
    ptx::fence_mbarrier_init();
    ptx::sync_threads();
    uint32_t value = in[thread_x()];
    for (uint32_t phase = 0; phase < 3; ++phase) {
      words[thread_x()] = value;
      ptx::mbarrier_arrive(b);
      ptx::mbarrier_wait(b, phase & 1u);
      value += words[(thread_x() + 37) % 128];
      ptx::sync_threads();
    }
    out[thread_x()] = value;
  }
};
struct BulkLoad {
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in) {
    LLAMA4RT_SHARED(uint64_t, barrier, 1);
    const uint32_t b = ptx::shared_address(barrier);
    auto* words = reinterpret_cast<uint32_t*>(dynamic_shared());
    if (thread_x() == 0) ptx::mbarrier_init(b, 1);
    ptx::fence_mbarrier_init();
    ptx::sync_threads();
    if (thread_x() == 0) {
      ptx::mbarrier_arrive_expect(b, 1024);
      ptx::bulk_load(ptx::shared_address(words), in + 4, 512, b);
      ptx::bulk_load(ptx::shared_address(words) + 512, in + 512, 512, b);
    }
    ptx::mbarrier_wait(b, 0);
    out[thread_x()] = words[thread_x()] * 31 + words[128 + thread_x()];
  }
};

// A box of 64 rows that hangs over the edge of a 60 x 100 matrix; the raw bytes of the tile go out, so the
// swizzle shows.
template <int kBoxColumns>
struct TensorLoad {
  static constexpr int kWords = 64 * kBoxColumns / 2;
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t*, const TensorMap* map) {
    LLAMA4RT_SHARED(uint64_t, barrier, 1);
    const uint32_t b = ptx::shared_address(barrier);
    auto* words = reinterpret_cast<uint32_t*>(dynamic_shared());
    if (thread_x() == 0) ptx::mbarrier_init(b, 1);
    ptx::fence_mbarrier_init();
    ptx::sync_threads();
    if (thread_x() == 0) {
      ptx::mbarrier_arrive_expect(b, kWords * 4);
      ptx::tensor_load_2d(ptx::shared_address(words), map, 3, 80, b);
    }
    ptx::mbarrier_wait(b, 0);
    for (int i = thread_x(); i < kWords; i += 128) out[i] = words[i];
  }
};
// The map is of `out` itself: [64 rows, 64 columns], box 16 x 64.
struct TensorStore {
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in, const TensorMap* map) {
    auto* words = reinterpret_cast<uint32_t*>(dynamic_shared());
    for (int i = thread_x(); i < 512; i += 128) words[i] = in[i];
    for (int i = thread_x(); i < 56 * 32; i += 128) out[i] = 0;
    ptx::fence_proxy_async();
    ptx::sync_threads();
    if (thread_x() == 0) {
      ptx::tensor_store_2d(map, 56, 0, ptx::shared_address(words));  // its last 8 rows fall outside
      ptx::bulk_commit();
      ptx::bulk_wait<0>();
    }
  }
};

// --- wgmma: a is 64 x 64, b is 64 x N, both K-major with 128-byte rows, swizzled when kSwizzle.

template <int kN, bool kRegisters>
struct Wgmma {
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in) {
    unsigned char* shared = dynamic_shared();  // a: 8 KB, then b
    for (int i = thread_x(); i < (64 + kN) * 32; i += 128) {
      const uint32_t address = uint32_t(i * 4);
      const uint32_t to = address ^ ((address >> 7 & 7u) << 4);
      *reinterpret_cast<uint32_t*>(shared + to) = in[i % kInputWords];
    }
    ptx::fence_proxy_async();
    ptx::sync_threads();
    const uint32_t a = ptx::shared_address(shared), b = a + 8192;
    float d[kN / 2];
    for (int i = 0; i < kN / 2; ++i) d[i] = float(i);
    uint32_t fragment[4] = {0, 0, 0, 0};
    ptx::computed_by_here(d);
    ptx::wgmma_fence();
    for (int step = 0; step < 4; ++step) {
      const uint64_t b_tile = ptx::wgmma_descriptor(b + uint32_t(step * 32), 16, 1024, Swizzle::k128B);
      if constexpr (kRegisters) {
        for (int i = 0; i < 4; ++i) fragment[i] = in[(step * 128 + thread_x()) * 4 + i];
        ptx::wgmma_fence();
        multiply(d, fragment, b_tile, step > 0);
      } else {
        multiply(d, ptx::wgmma_descriptor(a + uint32_t(step * 32), 16, 1024, Swizzle::k128B), b_tile, true);
      }
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    for (int i = 0; i < kN / 2; ++i) out[thread_x() * (kN / 2) + i] = bits(d[i]);
  }

  template <class A>
  static LLAMA4RT_DEVICE void multiply(float (&d)[kN / 2], const A& a, uint64_t b, bool accumulate) {
    if constexpr (kN == 8)
      ptx::wgmma_m64n8k16(d, a, b, accumulate);
    else if constexpr (kN == 128)
      ptx::wgmma_m64n128k16(d, a, b, accumulate);
    else
      ptx::wgmma_m64n64k16(d, a, b, accumulate);
  }
};

// Operands without a swizzle: cores of 8 rows x 16 bytes, 128 bytes apart along k and 256 along rows.
struct WgmmaCores {
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in) {
    unsigned char* shared = dynamic_shared();
    for (int i = thread_x(); i < (64 + 8) * 8; i += 128) reinterpret_cast<uint32_t*>(shared)[i] = in[i];
    ptx::fence_proxy_async();
    ptx::sync_threads();
    const uint32_t a = ptx::shared_address(shared), b = a + 2048;
    float d[4] = {0, 0, 0, 0};
    ptx::computed_by_here(d);
    ptx::wgmma_fence();
    ptx::wgmma_m64n8k16(d, ptx::wgmma_descriptor(a, 128, 256, Swizzle::kNone),
                        ptx::wgmma_descriptor(b, 128, 256, Swizzle::kNone), false);
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    for (int i = 0; i < 4; ++i) out[thread_x() * 4 + i] = bits(d[i]);
  }
};

// --- host

struct Buffers {
  DeviceBuffer in, out;
  size_t words;
  Buffers(Stream& stream, size_t out_words)
      : in(kInputWords * 4), out(out_words * 4), words(out_words), input(ptx_input()) {
    stream.copy_to_device(in.data(), input.data(), in.size());
  }
  std::vector<uint32_t> fetch(Stream& stream) const {
    std::vector<uint32_t> result(words);
    stream.copy_to_host(result.data(), out.data(), out.size());
    stream.synchronize();
    return result;
  }

 private:
  std::vector<uint32_t> input;
};

template <class Body>
PtxCase plain(const char* name, size_t words = 128, double tolerance = 0) {
  return {name, tolerance, [=](Stream& stream) {
            const Buffers b(stream, words);
            launch(name, ptx_kernel<Body>, {.threads = 128, .dynamic_shared = 32768, .alone = true}, stream,
                   b.out.template as<uint32_t>(), b.in.template as<const uint32_t>());
            return b.fetch(stream);
          }};
}

template <class Arrive>
PtxCase ticket(const char* name) {
  return {name, 0, [=](Stream& stream) {
            constexpr int kBlocks = 4;
            const Buffers b(stream, 128);
            const DeviceBuffer parts(kBlocks * 128 * 4), tickets(4);
            stream.fill(tickets.data(), 0, 4);
            launch(name, ptx_ticket_kernel<Arrive>, {.grid_x = kBlocks, .threads = 128, .alone = true},
                   stream, b.out.template as<uint32_t>(), b.in.template as<const uint32_t>(),
                   parts.template as<uint32_t>(), tickets.template as<uint32_t>());
            return b.fetch(stream);
          }};
}

// The second kernel may start while the first, which keeps its blocks busy, still runs.
struct SlowSums {
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in) {
    ptx::grid_wait();
    ptx::grid_launch_dependents();
    uint32_t sum = 0;
    for (int i = 0; i < 512; ++i) sum += ptx::shuffle(in[thread_x() + i], i % kWarpSize);
    out[thread_x()] = sum;
  }
};
struct WaitsAndReverses {
  static LLAMA4RT_DEVICE void run(uint32_t* out, const uint32_t* in) {
    ptx::grid_wait();
    ptx::grid_launch_dependents();
    out[thread_x()] = in[127 - thread_x()];
  }
};

PtxCase two_kernels(const char* name) {
  return {name, 0, [=](Stream& stream) {
            const Buffers b(stream, 128);
            const DeviceBuffer between(512);
            const LaunchShape shape{.threads = 128, .dynamic_shared = 32768};
            launch(name, ptx_kernel<SlowSums>, shape, stream, between.as<uint32_t>(),
                   b.in.as<const uint32_t>());
            launch(name, ptx_kernel<WaitsAndReverses>, shape, stream, b.out.as<uint32_t>(),
                   between.as<const uint32_t>());
            return b.fetch(stream);
          }};
}

template <int kBoxColumns>
PtxCase tensor_load(const char* name, Swizzle swizzle) {
  using Body = TensorLoad<kBoxColumns>;
  return {name, 0, [=](Stream& stream) {
            const Buffers b(stream, Body::kWords);
            const TensorMap map = make_tensor_map_16bit(b.in.data(), 60, 100, 208, 64, kBoxColumns, swizzle);
            launch(name, ptx_tensor_kernel<Body>, {.threads = 128, .dynamic_shared = 32768, .alone = true},
                   stream, b.out.template as<uint32_t>(), b.in.template as<const uint32_t>(), map);
            return b.fetch(stream);
          }};
}

PtxCase tensor_store(const char* name) {
  return {name, 0, [=](Stream& stream) {
            const Buffers b(stream, 64 * 32);
            const TensorMap map = make_tensor_map_16bit(b.out.data(), 64, 64, 128, 16, 64, Swizzle::k128B);
            launch(name, ptx_tensor_kernel<TensorStore>,
                   {.threads = 128, .dynamic_shared = 32768, .alone = true}, stream, b.out.as<uint32_t>(),
                   b.in.as<const uint32_t>(), map);
            return b.fetch(stream);
          }};
}

}  // namespace

std::vector<uint32_t> ptx_input() {
  std::vector<uint32_t> words(kInputWords);
  uint32_t state = 12345;
  const auto half = [&] {  // sign, exponent of 2^-3 .. 2^4, 7 bits of mantissa
    state = state * 1664525u + 1013904223u;
    return (state >> 31) << 15 | (124 + (state >> 20) % 8) << 7 | ((state >> 8) & 0x7fu);
  };
  for (uint32_t& w : words) {
    const uint32_t low = half();
    w = low | half() << 16;
  }
  return words;
}

std::vector<PtxCase> ptx_cases() {
  constexpr double kSums = 1e-5, kApproximate = 0x1p-21;
  return {plain<SyncThreads>("sync_threads"),
          plain<SyncNamed>("sync_named"),
          plain<ArriveNamed>("arrive_named"),
          plain<SyncWarp>("sync_warp"),
          plain<AtomicAdd>("atomic_add, fence_device"),
          ticket<ArriveFenced>("fence_device, between blocks"),
          ticket<ArriveOrdered>("atomic_add_ordered"),
          two_kernels("grid_wait, grid_launch_dependents"),
          plain<Shuffle>("shuffle"),
          plain<ShuffleXor>("shuffle_xor"),
          plain<ShuffleUp>("shuffle_up"),
          plain<ShuffleDown>("shuffle_down"),
          plain<Ballot>("ballot"),
          plain<MatchAny>("match_any"),
          plain<Rsqrt>("rsqrt", 128, kApproximate),
          plain<Exp2>("exp2", 128, kApproximate),
          plain<Fma>("fma"),
          plain<MulAdd>("mul, add, bits_from_float"),
          plain<Popcount>("popcount"),
          plain<PickBytes>("pick_bytes"),
          plain<FloatFromHalf>("float_from_half"),
          plain<PackBf16>("pack_bf16"),
          plain<FmaBf16x2>("fma_bf16x2"),
          plain<AndOr>("and_or"),
          plain<LoadSharedV4>("load_shared_v4, shared_address"),
          plain<CopyAsync>("copy_async_16, copy_commit, copy_wait"),
          plain<LdMatrix<false>>("ldmatrix_x4"),
          plain<LdMatrix<true>>("ldmatrix_x4_transposed"),
          plain<Mma>("mma_m16n8k16", 128, kSums),
          plain<MbarrierArrive>("mbarrier_init, mbarrier_arrive, mbarrier_wait"),
          plain<BulkLoad>("bulk_load, mbarrier_arrive_expect"),
          tensor_load<64>("tensor_load_2d, 128-byte swizzle", Swizzle::k128B),
          tensor_load<32>("tensor_load_2d, 64-byte swizzle", Swizzle::k64B),
          tensor_load<16>("tensor_load_2d, 32-byte swizzle", Swizzle::k32B),
          tensor_load<24>("tensor_load_2d, no swizzle", Swizzle::kNone),
          tensor_store("tensor_store_2d, bulk_commit, bulk_wait, fence_proxy_async"),
          plain<Wgmma<8, false>>("wgmma_m64n8k16, descriptors", 128 * 4, kSums),
          plain<Wgmma<8, true>>("wgmma_m64n8k16, a in registers", 128 * 4, kSums),
          plain<Wgmma<64, false>>("wgmma_m64n64k16, descriptors", 128 * 32, kSums),
          plain<Wgmma<64, true>>("wgmma_m64n64k16, a in registers", 128 * 32, kSums),
          plain<Wgmma<128, true>>("wgmma_m64n128k16, a in registers", 128 * 64, kSums),
          plain<WgmmaCores>("wgmma_m64n8k16, no swizzle", 128 * 4, kSums)};
}

}  // namespace llama4rt::test
