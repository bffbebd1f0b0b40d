// What the tests of kernels share, on the emulated GPU and on a real one: schedules to run under, reports to
// expect, and data in device memory.
#pragma once

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "cuda/runtime.h"
#include "ops/cases.h"
#include "ops/random_weights.h"
#include "test.h"

#ifdef LLAMA4RT_SIMT_EMULATOR
#include "simt_emulator/checker.h"
#include "simt_emulator/executor.h"
#include "simt_emulator/host_runtime.h"
#endif

namespace llama4rt::test {

#ifdef LLAMA4RT_SIMT_EMULATOR

// Sets the emulator's options for as long as it lives.
class WithOptions {
 public:
  explicit WithOptions(const simt::Options& o) : before_(simt::options()) { simt::options() = o; }
  ~WithOptions() { simt::options() = before_; }
  WithOptions(const WithOptions&) = delete;
  WithOptions& operator=(const WithOptions&) = delete;

 private:
  simt::Options before_;
};

inline const std::vector<simt::Options>& schedules() {
  using simt::Async, simt::Order;
  static const std::vector<simt::Options> all = {
      {.order = Order::kAscending, .async = Async::kLazy},
      {.order = Order::kDescending, .async = Async::kEager},
      {.order = Order::kRandom, .async = Async::kRandom, .seed = 7},
  };
  return all;
}
inline std::string describe(const simt::Options& o) {
  static constexpr const char* kOrders[] = {"ascending", "descending", "random"};
  static constexpr const char* kAsyncs[] = {"lazy", "eager", "random"};
  return error_text(kOrders[int(o.order)], " order, ", kAsyncs[int(o.async)], " copies, seed ", o.seed);
}

#else

// A GPU has its own schedule.
struct Schedule {};
struct WithOptions {
  explicit WithOptions(const Schedule&) {}
};
inline const std::vector<Schedule>& schedules() {
  static const std::vector<Schedule> all(3);
  return all;
}
inline std::string describe(const Schedule&) { return "on the GPU"; }

#endif

// Inputs that in a model come from the kernel before: whoever reads them must have waited for it.
inline void as_if_a_kernel_wrote([[maybe_unused]] const cuda::DeviceBuffer& buffer) {
#ifdef LLAMA4RT_SIMT_EMULATOR
  simt::as_if_a_kernel_wrote(buffer.data(), buffer.size());
#endif
}

// Whether loads and stores are seen (simt_emulator/checker.h). Without that many broken kernels are right by
// luck.
#ifdef LLAMA4RT_SIMT_CHECKED
inline constexpr bool kChecked = true;
#else
inline constexpr bool kChecked = false;
#endif
inline constexpr const char* kNoChecker =
    "loads and stores are not seen here: that takes g++ without sanitizers, and no GPU";

// The report of a launch that must fail; empty (and a failed check) when it does not.
inline std::string report_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return {};
}

// A matrix of the host in device memory, with the same gaps between rows.
class DeviceMatrix {
 public:
  DeviceMatrix(cuda::Stream& stream, Matrix& host)
      : host_(host),
        bytes_(size_t((host.rows() - 1) * host.view().stride0 + host.columns()) * 4),
        buffer_(bytes_) {
    stream.copy_to_device(buffer_.data(), host.row(0), bytes_);
    stream.synchronize();
    as_if_a_kernel_wrote(buffer_);
  }
  Tensor view() const {
    Tensor t = host_.view();
    t.data = buffer_.data();
    return t;
  }
  // Copies it back, gaps and all.
  void fetch(cuda::Stream& stream) {
    stream.copy_to_host(host_.row(0), buffer_.data(), bytes_);
    stream.synchronize();
  }

 private:
  Matrix& host_;
  size_t bytes_;
  cuda::DeviceBuffer buffer_;
};

// The same weight (or stack of experts), packed for CUDA, in device memory.
class DeviceWeight {
 public:
  DeviceWeight(cuda::Stream& stream, const Weight& from) : host_(from), weight_(from) {
    const int64_t bytes = matrix_bytes(Layout::kCudaTile, from.kind, from.n, from.k);
    host_data_.assign(size_t(from.num_experts * bytes), 0);
    for (int64_t e = 0; e < from.num_experts; ++e) pack(expert_view(from, e), &host_data_[size_t(e * bytes)]);
    host_.layout = weight_.layout = Layout::kCudaTile;
    host_.data = host_data_.data();
    const auto put = [&](cuda::DeviceBuffer& buffer, const void* data, size_t size) {
      buffer = cuda::DeviceBuffer(size);
      stream.copy_to_device(buffer.data(), data, size);
      return buffer.data();
    };
    weight_.data = put(data_, host_data_.data(), host_data_.size());
    for (const SideFormat& format : kSides)
      if (has_side(from, format.side)) {
        const int64_t side =
            from.num_experts * cpu16::num_blocks(from.n) * side_block_bytes(from, format.side);
        set_side(weight_, format.side,
                 put(sides_[size_t(format.side)], side_data(from, format.side), size_t(side)));
      }
    stream.synchronize();
  }
  const Weight& host() const { return host_; }    // the packed bytes, for weight_value
  const Weight& view() const { return weight_; }  // the same in device memory

 private:
  static void pack(const Weight& from, unsigned char* to) {
    for (int64_t n = 0; n < from.n; ++n)
      for (int64_t k = 0; k < from.k; ++k) {
        const BitPlace place = bit_place(Layout::kCudaTile, from.kind, n, k, from.k);
        uint32_t word;
        std::memcpy(&word, to + place.word_offset, 4);
        word |= stored_bits(from, from.data, n, k) << place.bit;
        std::memcpy(to + place.word_offset, &word, 4);
      }
  }

  Weight host_, weight_;
  std::vector<unsigned char> host_data_;
  cuda::DeviceBuffer data_;
  std::array<cuda::DeviceBuffer, kSides.size()> sides_;
};

}  // namespace llama4rt::test
