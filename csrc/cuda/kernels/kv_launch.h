// Shared by launchers of kernels that read or write the KV cache.
#pragma once

#include "base/checked_math.h"
#include "base/error.h"
#include "cuda/device/kv_layout.cuh"
#include "cuda/kernels/attention.h"
#include "cuda/launch.h"

namespace llama4rt::cuda {

// Ops::check_kv() refuses these caches before.
[[noreturn]] inline void throw_no_kv_kernel(const char* name, const KvLayer& kv) {
  throw Error(ErrorKind::kInternal,
              error_text(name, ": ", kv_kind_name(kv.format), " caches have no CUDA kernel"));
}

// start.template operator()<Element>() with the element that this cache stores: a GPU's formats have one each.
template <class Start>
void with_kv_element(const char* name, const KvLayer& kv, const Start& start) {
  with_kv_kind(kv.format, [&]<KvKind kind>() {
    if constexpr (!kv_format(kind).on_gpu) {
      throw_no_kv_kernel(name, kv);
    } else if constexpr (kind == KvKind::kBF16) {
      start.template operator()<KvBF16>();
    } else if constexpr (kind == KvKind::kF32) {
      start.template operator()<KvF32>();
    } else {
      static_assert(kind == KvKind::kF8E4M3);
      start.template operator()<KvF8>();
    }
  });
}

// A layer's cache as kernels see it.
inline KvBlocks kv_blocks(const KvLayer& kv) {
  return {.k = kv.k,
          .v = kv.v,
          .num_heads = kv.num_kv_heads,
          .block_size = kv.block_size,
          .head_dim = kv.head_dim,
          .cores = kv_in_cores(kv)};
}

// One warp for each head of each token: starts Kernel<Config<Element, largest head dim>>, for any cache.
template <template <class, int> class Config, class Kernels, class Args>
void launch_per_head(const char* name, Stream& stream, const Args& args, const KvLayer& kv, int64_t tokens,
                     int heads, const Kernels& kernels) {
  const auto start = [&](auto config) {
    launch(name, kernels(config),
           {.grid_x = int(tokens), .grid_y = ceil_div(heads, config.kWarps), .threads = config.kThreads},
           stream, args);
  };
  with_kv_element(name, kv, [&]<class Element>() {
    if (kv.head_dim <= 128) return start(Config<Element, 128>{});
    start(Config<Element, 256>{});
  });
}

}  // namespace llama4rt::cuda
