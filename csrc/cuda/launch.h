// launch(): the only way to start a kernel, instead of <<<>>>, so that a .cu file is ordinary C++.
//   launch("rmsnorm", rmsnorm_kernel<256>, {.grid_x = tokens, .threads = 256}, stream, args);
// The name stands in error messages and in the emulator's reports. Arguments are copied at the call.
#pragma once

#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "cuda/launch_shape.h"
#include "cuda/runtime.h"

#ifdef LLAMA4RT_SIMT_EMULATOR
#include "simt_emulator/host_runtime.h"
#endif

namespace llama4rt::cuda {

#ifdef LLAMA4RT_SIMT_EMULATOR

template <class... P>
struct KernelLaunch final : simt::Launch {
  void (*kernel)(P...);
  std::tuple<P...> arguments;
  KernelLaunch(const char* kernel_name, void (*k)(P...), const LaunchShape& s, P... p)
      : kernel(k), arguments(std::move(p)...) {
    name = kernel_name;
    grid = {s.grid_x, s.grid_y, s.grid_z};
    threads = s.threads;
    dynamic_shared = s.dynamic_shared;
    overlaps = !s.alone;
    closure_bytes = sizeof *this;
  }
  void call() const override { std::apply(kernel, arguments); }
  const void* address() const override { return reinterpret_cast<const void*>(kernel); }
  std::vector<std::pair<const void*, size_t>> argument_bytes() const override {
    return std::apply(
        [](const auto&... value) {
          return std::vector<std::pair<const void*, size_t>>{{&value, sizeof value}...};
        },
        arguments);
  }
};

template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), const LaunchShape& shape, Stream& stream,
            A&&... arguments) {
  simt::enqueue_launch(
      stream, std::make_shared<KernelLaunch<P...>>(name, kernel, shape, P(std::forward<A>(arguments))...));
}

#else

template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), const LaunchShape& shape, Stream& stream,
            A&&... arguments) {
  std::tuple<P...> values(std::forward<A>(arguments)...);
  std::apply(
      [&](auto&... value) {
        void* pointers[] = {static_cast<void*>(&value)...};
        launch_raw(name, reinterpret_cast<const void*>(kernel), shape, stream, pointers);
      },
      values);
}

#endif

}  // namespace llama4rt::cuda
